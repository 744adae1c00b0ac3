// The canvas. A stroke that touches a shape becomes part of it, any other is a new shape. A shape's arrow is dragged
// to set its direction. The value, for Python: a list of {pixels: H * W numbers from 0 to 255, angle: radians}.
const canvas = element.querySelector("canvas"), arrows = element.querySelector("svg");
const {width: W, height: H} = canvas, MOST = 3, PEN = 3, REACH = 13, EDGE = 4;
let shapes = [], held = null, last = null;

const blank = () => Object.assign(document.createElement("canvas"), {width: W, height: H});
const pen = (ink) => Object.assign(ink.getContext("2d", {willReadFrequently: true}),
  {strokeStyle: "white", lineWidth: PEN, lineCap: "round"});
const pixels = (ink) => Array.from(pen(ink).getImageData(0, 0, W, H).data).filter((_, i) => i % 4 == 3);
const inside = (at, side) => Math.min(Math.max(at, EDGE), side - EDGE);

function shape(ink, angle) {
  const inked = pixels(ink).flatMap((value, i) => value ? [i] : []);
  const middle = (places) => (Math.min(...places) + Math.max(...places) + 1) / 2;
  return {ink, angle, x: middle(inked.map((i) => i % W)), y: middle(inked.map((i) => Math.floor(i / W)))};
}

function show() {
  pen(canvas).clearRect(0, 0, W, H);
  for (const {ink} of held?.ink ? [...shapes, held] : shapes) pen(canvas).drawImage(ink, 0, 0);
  element.querySelector("p").hidden = shapes.length || held;
  arrows.innerHTML = shapes.map(({x, y, angle}, n) => {
    const [u, v] = [inside(x + REACH * Math.cos(angle), W), inside(y + REACH * Math.sin(angle), H)];
    return `<path d="M2 0L-3 -3V3Z" transform="translate(${u} ${v}) rotate(${angle * 180 / Math.PI})"/>` +
      `<line x1="${x}" y1="${y}" x2="${u}" y2="${v}"/><circle data-shape="${n}" cx="${u}" cy="${v}" r="5"/>`;
  }).join("");
}

function move(event) {  // what is held: the ink of a stroke, or a shape by its arrow
  const box = arrows.getBoundingClientRect();
  const now = {x: (event.clientX - box.left) * W / box.width, y: (event.clientY - box.top) * H / box.height};
  if (held.aimed) held.aimed.angle = Math.atan2(now.y - held.aimed.y, now.x - held.aimed.x);
  else {
    const context = pen(held.ink), from = last ?? now;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(now.x + 0.01, now.y);  // a line without length, as of a click, would leave no dot
    context.stroke();
  }
  last = now;
  show();
}

function settle(ink) {
  const inked = pixels(ink);
  let touched = shapes.filter((shape) => pixels(shape.ink).some((value, i) => value && inked[i]));
  if (!touched.length && shapes.length == MOST) touched = shapes.slice(-1);
  for (const {ink: other} of touched) pen(ink).drawImage(other, 0, 0);
  const angle = touched.length ? touched[0].angle : 2 * Math.PI * Math.random();
  shapes = [...shapes.filter((shape) => !touched.includes(shape)), shape(ink, angle)];
}

arrows.addEventListener("pointerdown", (event) => {
  if (event.button || !event.isPrimary) return;  // of the mouse's other buttons, or a second finger
  arrows.setPointerCapture(event.pointerId);
  const aimed = shapes[event.target.dataset.shape];
  [held, last] = [aimed ? {aimed} : {ink: blank()}, null];
  if (!aimed) move(event);
});
arrows.addEventListener("pointermove", (event) => { if (held && event.isPrimary) move(event); });
for (const end of ["pointerup", "pointercancel"]) arrows.addEventListener(end, (event) => {
  if (!held || !event.isPrimary) return;
  if (held.ink) settle(held.ink);
  held = null;
  show();
  props.value = shapes.map(({ink, angle}) => ({pixels: pixels(ink), angle}));
});

watch("value", () => {  // from Python
  shapes = props.value.map(({pixels, angle}) => {
    const ink = blank(), image = pen(ink).createImageData(W, H);
    image.data.set(pixels.flatMap((value) => [255, 255, 255, value]));
    pen(ink).putImageData(image, 0, 0);
    return shape(ink, angle);
  });
  show();
});
