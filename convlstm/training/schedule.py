"""What follows from the number of the step: the learning rate, and when the network is validated."""

import math


def lr_factor(step: float, steps: int, schedule: str, warmup: float) -> float:
    """Return the learning rate at a step as a share of the highest.

    With s = (step + 1/2) / steps, the middle of the step, and w = warmup:

        cosine      s / w up to w, then (1 + cos(pi (s - w) / (1 - w))) / 2
        one-cycle   from 1/25 to 1 along half a cosine up to w, then as above

    Sources: Loshchilov and Hutter 2017, "SGDR"; Smith and Topin 2018, "Super-Convergence", as in
    torch.optim.lr_scheduler.OneCycleLR, but without its cycle of momentum and down to 0.

    Args:
        step: optimizer steps done, 0 to steps - 1, or the work done in mean steps.
        steps: optimizer steps of the whole run.
        schedule: "cosine" or "one-cycle".
        warmup: share of the run in which the rate rises, 0 to below 1.
    """
    # The middle of the step: the first is not at rate zero, nor is the last.
    progress = (step + 0.5) / steps
    if progress >= warmup:
        return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    rise = progress / warmup
    return rise if schedule == "cosine" else 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2


def ends_part(step: int, steps: int, parts: int) -> bool:
    """Whether one of so many equal parts of a run ends with this step (1 to steps)."""
    return step > 0 and step * parts // steps > (step - 1) * parts // steps
