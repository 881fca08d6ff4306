"""One step of training: the state it carries and the function that advances it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from capsjax import losses, models
from capsjax.config import Config
from capsjax.losses import classification
from capsjax.training import adversarial, augment, optim, parallel
from capsjax.training.parallel import Devices

Batch = Mapping[str, Any]  # NumPy or JAX arrays by name.
Metrics = dict[str, Array]
Step = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        step: number of steps taken so far.
        params: the model's parameters.
        opt_state: state of the optimizer.
        model_state: variables that the model changes without gradients, such as the
            running averages of batch normalisation; equal on all devices.
        averages: moving averages of the parameters, in place of which they are
            evaluated; empty if the config does not ask for them.
    """

    step: Int[Array, ""]
    params: nnx.State
    opt_state: optax.OptState
    model_state: nnx.State
    averages: nnx.State = flax.struct.field(default_factory=lambda: nnx.State({}))

    @property
    def variables(self) -> models.Variables:
        """Everything that the model's results depend on."""
        params = self.averages if jax.tree.leaves(self.averages) else self.params
        return models.Variables(self.step, params, self.model_state)


def create(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[nnx.GraphDef, TrainState]:
    """Returns a model's structure and the initial state of its training.

    Args:
        config: the run's config.
        image_shape: shape (H, W, C) of the data set's images, before preprocessing.
        num_classes: number of classes of the data set.

    Raises:
        UserError: settings are unknown or do not fit together.
    """
    tx = optim.build(config.optimizer)
    model = models.build(
        config.model,
        augment.output_shape(image_shape, config),
        num_classes,
        nnx.Rngs(params=config.seed),
    )
    graphdef, params, model_state = models.split(model)
    if config.optimizer.rates:
        optim.factors(params, config.optimizer.rates)  # Raises errors early.
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), model_state)
    if config.optimizer.average_decay:
        # A copy: each array of a state is donated once.
        averages = jax.tree.map(jnp.copy, params)
        state = dataclasses.replace(state, averages=averages)
    return graphdef, state


def make_train_step(
    graphdef: nnx.GraphDef, config: Config, devices: Devices
) -> jax.stages.Wrapped:
    """Returns the compiled function from a state and a batch to next state and metrics.

    See `step_of_one_device`. The state comes from `Devices.replicate` and the batch
    from `Devices.shard`. The state is donated, so it must not be used again, unless
    ``config.debug_nans`` is set.
    """
    step = step_of_one_device(graphdef, config)
    return devices.spread(step, donate=not config.debug_nans)


def step_of_one_device(graphdef: nnx.GraphDef, config: Config) -> Step:
    """Returns the step of each device, from the state and its share of the batch.

    The share has the arrays of `capsjax.data.datasets.Examples.batch`. The resulting
    state and metrics are equal on all devices: the metrics are means over the whole
    batch of the losses and of `classification.metrics`, and the gradient's norm,
    ``"gradient_norm"``. All randomness is a function of ``config.seed``, the step and
    an example's place in the whole batch.
    """
    tx = optim.build(config.optimizer)

    def loss_of(
        params: nnx.State,
        state: TrainState,
        images: Array,
        shares: Array | None,
        batch: Batch,
        keys: Array,
    ):
        labels = batch["label"]
        output, model_state = models.apply(
            graphdef,
            state.variables.replace(params=params),
            images,
            labels,
            config.dtype,
            train=True,
            keys=keys,
        )

        def numbers_of(labels: Array) -> Metrics:
            return losses.per_example(
                config.loss,
                output.scores,
                labels,
                reconstructions=output.reconstructions,
                targets=augment.targets(batch, images),
                auxiliary_scores=output.auxiliary_scores,
                auxiliary_weight=output.auxiliary_weight,
                step=state.step,
                train=True,
            )

        numbers = numbers_of(labels)
        if shares is not None:
            others = numbers_of(augment.partners(labels))
            numbers = {
                name: shares * values + (1 - shares) * others[name]
                for name, values in numbers.items()
            }
        predictions = classification.predict(output.scores, labels)
        numbers |= classification.metrics(predictions, labels)
        metrics = {name: jnp.mean(values) for name, values in numbers.items()}
        return metrics["loss"], (metrics, model_state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        examples = parallel.example_indices(len(batch["label"]))
        augment_keys, model_keys = (
            jax.vmap(jax.random.fold_in, (None, 0))(key, examples)
            for key in jax.random.split(step_key)
        )
        images = augment.augmented(batch["image"], augment_keys, config)
        if config.adversarial.radius:
            images = adversarial.attacked_images(
                graphdef,
                config,
                state.variables.replace(params=state.params),
                images,
                batch["label"],
                augment_keys,
            )
        images = augment.normalized(images, config.preprocess)
        shares = None
        if config.augment.mixup:
            images, shares = augment.mixup(images, augment_keys, config.augment.mixup)
        gradients, (metrics, model_state) = parallel.mean(
            jax.grad(loss_of, has_aux=True)(
                state.params, state, images, shares, batch, model_keys
            )
        )
        # Optax raises floats to integer powers, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = state.averages
        if decay := config.optimizer.average_decay:
            averages = optim.averaged(averages, params, decay)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        state = TrainState(state.step + 1, params, opt_state, model_state, averages)
        return state, metrics

    return train_step
