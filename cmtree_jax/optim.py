"""The optimizer of proxies and final models: AdamW that can be differentiated."""

import optax


def adamw(
  learning_rate: float,
  *,
  warmup_steps: int,
  total_steps: int | None,
  weight_decay: float,
  eps_root: float,
) -> optax.GradientTransformation:
  """AdamW with clipping, a linear warm-up and, if it ends, a cosine decay.

  Args:
    learning_rate: peak.
    warmup_steps: steps from zero to the peak.
    total_steps: the rate falls to a tenth by then; None keeps it constant.
    weight_decay: decoupled, on every parameter.
    eps_root: added under the square root; above zero, since the square root has
      no derivative at zero. 1e-6 keeps derivatives through a fresh proxy exact
      to 1e-4 in float32.
  """
  if total_steps is None:
    schedule = optax.schedules.warmup_constant_schedule(
      0.0, learning_rate, warmup_steps
    )
  else:
    schedule = optax.schedules.warmup_cosine_decay_schedule(
      0.0, learning_rate, warmup_steps, total_steps, 0.1 * learning_rate
    )
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      schedule,
      b2=0.95,
      weight_decay=weight_decay,
      eps_root=eps_root,
    ),
  )
