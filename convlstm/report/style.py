"""How a report looks: on screens of any width, light and dark, and on paper."""

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f5f6f8; --ink: #1b1e24; --muted: #5a6070; --line: #d9dce3; --link: #1f5fae;
  --tint: #fdf1e3; --screen: #181a1f; --screen-ink: #e6e8ec; --screen-muted: #a2a7b3;
  --s0: #c75b00; --s1: #1f6fb2; --s2: #0b7f6b; --s3: #7d4bc4; --s4: #b0305c; --s5: #5d6675;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111318; --card: #1a1d24; --ink: #e6e8ec; --muted: #a2a7b3; --line: #31353f; --link: #7db4f0;
    --tint: #2b2218;
    --s0: #f29622; --s1: #4ea1e4; --s2: #3fc1a6; --s3: #b795f2; --s4: #f07a9f; --s5: #9aa2b1;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; text-wrap: balance; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
small, .muted { color: var(--muted); }
code, pre { font: .86em/1.5 ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
  margin: .5rem 0; white-space: pre-wrap;
}
summary { cursor: pointer; color: var(--link); margin: .6rem 0; }
.verdict { font-size: 1.15rem; line-height: 1.5; }
.of { color: var(--muted); margin: 0 0 1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.facts div { background: var(--card); border-radius: 8px; padding: .6rem .8rem; }
.facts dt { font-size: .8rem; color: var(--muted); }
.facts dd { margin: 0; font-weight: 600; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: 1rem 0 0; }

table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; }
tr > :first-child { text-align: left; }
thead th { font-size: .86rem; vertical-align: bottom; }
tbody th small { display: block; font-weight: 400; max-width: 24rem; line-height: 1.35; }
.group th { padding-top: 1.2rem; color: var(--muted); font-size: .86rem; }
td small { display: block; white-space: nowrap; }
.scores td:nth-of-type(1), .scores thead th:nth-of-type(2) { background: var(--tint); }
td.best { font-weight: 700; }
td.best small { font-weight: 400; }
.wide { overflow-x: auto; }
.wide td, .wide th { white-space: nowrap; padding: .25rem .5rem; font-size: .86rem; }

figure { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20.5rem, 100%), 1fr)); gap: 1.6rem 1.4rem; }
.chart { min-width: 0; }
.chart figcaption { margin-bottom: .2rem; line-height: 1.3; }
.chart svg { display: block; width: 100%; max-width: 30rem; height: auto; }
.chart text { font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: var(--muted); }
.chart .axis { fill: var(--ink); }
.grid, .tick { stroke: var(--line); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.line.s0 { stroke-width: 2.6; }
.dot { stroke: none; }
.band { stroke: none; opacity: .16; }
.reach { fill: transparent; }
.reach:hover { fill: color-mix(in srgb, var(--ink) 22%, transparent); }
.line.s0 { stroke: var(--s0); } .dot.s0, .band.s0 { fill: var(--s0); }
.line.s1 { stroke: var(--s1); stroke-dasharray: 6 3; } .dot.s1, .band.s1 { fill: var(--s1); }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 2.5; } .dot.s2, .band.s2 { fill: var(--s2); }
.line.s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; } .dot.s3, .band.s3 { fill: var(--s3); }
.line.s4 { stroke: var(--s4); stroke-dasharray: 12 4; } .dot.s4, .band.s4 { fill: var(--s4); }
.line.s5 { stroke: var(--s5); stroke-dasharray: 4 4; } .dot.s5, .band.s5 { fill: var(--s5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; padding: 0; margin: .8rem 0 1rem; }
.legend svg { vertical-align: middle; }

.rollout {
  background: var(--screen); color: var(--screen-ink); border-radius: 12px; padding: 1rem; margin: 1rem 0;
}
.rollout figcaption { margin-bottom: .7rem; }
.rollout small { color: var(--screen-muted); }
.screens { display: flex; flex-wrap: wrap; gap: 1.2rem 1.6rem; align-items: center; }
.screens > img { flex: 0 1 auto; max-width: 100%; height: auto; }
.strip { flex: 1 1 30rem; min-width: min(100%, 18rem); display: grid; gap: 3px; }
.strip img { display: block; width: 100%; height: auto; }
.strip .row { display: grid; grid-template-columns: 4.6rem 1fr; align-items: center; font-size: .8rem; }
.strip .times { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; text-align: center; color: var(--screen-muted); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: .6rem 0; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; vertical-align: -.05rem; }

@media (max-width: 46rem) {
  .scores, .scores tbody, .scores tr, .scores th, .scores td { display: block; }
  .scores thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .scores tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .scores th, .scores td { border: 0; padding: .15rem .4rem; text-align: left; }
  .scores td { display: flex; gap: .5rem; align-items: baseline; }
  .scores td::before { content: attr(data-of); flex: 1; color: var(--muted); font-weight: 400; }
  .strip .row { grid-template-columns: 1fr; }
  .strip .row:first-child > :first-child { display: none; }
}
@media (prefers-reduced-motion: reduce) { .screens > img { display: none; } }
@media print {
  :root {
    color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #bbb; --tint: #fff;
    --screen: #fff; --screen-ink: #000; --screen-muted: #444; --link: #000;
    --s0: #c75b00; --s1: #1f6fb2; --s2: #0b7f6b; --s3: #7d4bc4; --s4: #b0305c; --s5: #5d6675;
  }
  body { padding: 0; max-width: none; font-size: 10pt; }
  nav, .screens > img, .motion { display: none; }
  .charts { grid-template-columns: 1fr 1fr; }
  .rollout { padding: 0; }
  figure, tr, .facts div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
