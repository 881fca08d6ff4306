"""Training, from a config and data to a run folder with a result."""

import contextlib
import dataclasses
import itertools
import os
import statistics
import time
from typing import Any

import jax

from capsjax import config as config_lib
from capsjax.config import Config
from capsjax.data import Dataset, ImageSet, TrainBatches
from capsjax.errors import UserError
from capsjax.runs import data_record, provenance
from capsjax.runs.folder import RunFolder, write_json, writing_to
from capsjax.runs.metrics import MetricsWriter, read_metrics
from capsjax.runs.progress import Progress
from capsjax.runs.stop import Stopped, StopRequests
from capsjax.training import allocator, augment, initial, parallel
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Record
from capsjax.training.debug import stop_at_nan
from capsjax.training.evaluate import Evaluation, evaluate, make_eval_step
from capsjax.training.log import TrainLog
from capsjax.training.profiling import StepTrace
from capsjax.training.routing_log import make_diagnose
from capsjax.training.trained import TrainedModel

_DIAGNOSED_IMAGES = 64


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingResult:
    """A run that has ended.

    Attributes:
        model: model after the last step.
        test: metrics, predictions and scores on the test images.
        record: contents of ``result.json``.
    """

    model: TrainedModel
    test: Evaluation
    record: dict[str, Any]


def train(
    config: Config,
    data: Dataset,
    folder: RunFolder | str | os.PathLike,
    *,
    resume: bool = False,
    profile_steps: range = range(0),
) -> TrainingResult | None:
    """Trains a model, evaluates it on the test images, and fills the run folder.

    The test images are used once, at the end, on the parameters of the last step:
    nothing is selected by them. Training is a function of the config, the data and the
    network that ``config.init_from`` names, so a resumed run ends like an uninterrupted
    one: bit by bit on the same number of devices, up to rounding on another.

    If several processes train together (`parallel.join`), each calls this; the primary
    one writes and reports.

    Args:
        config: the run's config; see `capsjax.config.Config`.
        data: data to train, validate and test on; on resume the same as before.
        folder: the run's folder, new or empty unless ``resume``.
        resume: whether to continue from the last checkpoint in the folder, if any.
        profile_steps: steps to trace, counted from 0.

    Returns:
        The trained model and its result; None in other processes than the primary one.

    Raises:
        UserError: settings, the folder or its data do not fit, a loss is not finite, or
            files cannot be written.
        Stopped: SIGTERM or Ctrl-C was received; the state is saved.
    """
    config_lib.check(config)
    config = config.replace()  # The model keeps it, so the caller may change theirs.
    if not isinstance(folder, RunFolder):
        folder = RunFolder(folder)
    target = config.stop_at_validation_accuracy
    if target and not len(data.validation):
        raise UserError(
            f"config.stop_at_validation_accuracy is {target}, but there are no "
            "validation images; set config.data.validation_examples"
        )
    devices = parallel.choose(config)
    batches = TrainBatches(data.train, config.batch_size, config.seed)
    rows = devices.rows(config.batch_size)
    num_steps = config.num_epochs * batches.steps_per_epoch
    if config.max_steps:
        num_steps = min(num_steps, config.max_steps)
    graphdef, state = train_step.create(config, data.image_shape, data.num_classes)
    num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
    step_fn = train_step.step_of_one_device(graphdef, config)
    jitted = train_step.make_train_step(graphdef, config, devices)
    eval_fn = make_eval_step(graphdef, config, devices)
    primary = parallel.is_primary()
    diagnose = make_diagnose(graphdef, config) if config.diagnose_routing else None
    seen_shape = augment.output_shape(data.image_shape, config)
    source = None
    if config.init_from and not resume:  # An error should leave no folder behind.
        state, source = initial.taken(config, state, seen_shape)

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        if primary:
            stack.enter_context(folder.open(config, resume=resume))
            stack.enter_context(writing_to(folder))
            data_record.check_same(folder, data)
        checkpoints = stack.enter_context(Checkpoints(folder))
        record = Record(num_devices=devices.count)
        resumed = checkpoints.resume(state) if resume else None
        if resumed is not None:
            state, record = resumed
        first_step = int(state.step)
        if config.init_from and resume and resumed is None:
            state, source = initial.taken(config, state, seen_shape)
        if first_step > num_steps:
            raise UserError(
                f"the run in {folder.path} has taken {first_step} steps already, more "
                f"than the {num_steps} that its config asks for now"
            )
        state = devices.replicate(state)
        if primary:
            folder.record_config(config)
            data_record.record(folder, data, config.data.path)
            env = provenance.environment() | {
                "data": data.provenance,
                "num_devices": devices.count,
            }
            if source is not None:
                env["init_from"] = {"path": source.path, "sha256": source.sha256}
            folder.record_env(env, resumed_at=first_step if resumed else None)
            print(_introduction(data, config, num_parameters, env, folder), flush=True)
            if source is not None:
                print(source.in_words, flush=True)
            if resumed:
                note = f"resumed at step {first_step}"
                if record.num_devices != devices.count:
                    note += (
                        f", on {devices.count} devices instead of {record.num_devices}"
                        ": the result will be the same up to rounding only"
                    )
                print(note, flush=True)
        record.num_devices = devices.count

        def evaluated(images: ImageSet, **options: Any) -> Evaluation:
            variables, size = state.variables, config.batch_size
            return evaluate(eval_fn, variables, images, size, devices, **options)

        started = time.monotonic() - record.seconds
        writer = MetricsWriter(folder, resume_step=first_step, enabled=primary)
        trace = StepTrace(folder.profile, profile_steps, enabled=primary)
        training = Progress(
            "training",
            num_steps,
            unit="images",
            done=first_step,
            scale=config.batch_size,
            shown=primary,
        )
        stack.enter_context(writer)
        stack.enter_context(trace)
        with training as progress:
            log = TrainLog(config, batches.steps_per_epoch, writer, progress)
            steps = range(0 if record.reached else num_steps)[first_step:]
            if steps:
                with progress.preparing("compiling"):
                    batch = devices.shard(batches.batch(first_step, rows))
                    # Before the first step, so that the two do not need memory at once.
                    train_fn = devices.compile(jitted, state, batch)
                    allocator.release_unused()
                log.restart_timer()
            for step in steps:
                batch = batches.batch(step, rows)
                before = state if config.debug_nans else None
                with trace.step(step):
                    state, metrics = train_fn(state, devices.shard(batch))
                if before is not None:
                    whole, last_good = batches.batch(step), _last_good(checkpoints)
                    stop_at_nan(step_fn, before, whole, metrics, last_good)
                trace.after(step, metrics)
                log.add(step, metrics)
                progress.advance()

                taken = step + 1
                asked_to_stop = stop.received(taken)
                evaluate_now = (
                    taken % batches.steps_per_epoch == 0
                    or taken == num_steps
                    or _is_due(taken, config.evaluate_every_steps)
                )
                save_now = (
                    evaluate_now
                    or asked_to_stop is not None
                    or _is_due(taken, config.checkpoint_every_steps)
                )
                if save_now or _is_due(taken, config.log_every_steps):
                    log.flush(_last_good(checkpoints))
                if evaluate_now and len(data.validation):
                    found = evaluated(data.validation).metrics
                    writer.write(taken, "validation", found)
                    progress.show(validation=f"{found['accuracy']:.4f}")
                    best = record.best_accuracy
                    if best is None or found["accuracy"] > best:
                        record.best_accuracy = found["accuracy"]
                        record.best_step = taken
                        checkpoints.save("best", state, record)
                    record.reached = 0 < target <= found["accuracy"]
                if evaluate_now and diagnose is not None and primary:
                    # From host memory, since one device of one process computes it.
                    variables = jax.device_get(state.variables)
                    images = data.train.images[:_DIAGNOSED_IMAGES]
                    writer.write(taken, "routing", diagnose(variables, images))
                if save_now:
                    record.seconds = time.monotonic() - started
                    checkpoints.save("last", state, record)
                    log.restart_timer()
                if asked_to_stop is not None:
                    raise Stopped(asked_to_stop, taken)
                if record.reached:
                    break

        num_steps = int(state.step)
        with Progress(
            "testing", len(data.test), unit="images", shown=primary
        ) as progress:
            ticks = itertools.count(num_steps + 1)

            def on_batch(examples: int) -> None:
                progress.advance(examples)
                asked_to_stop = stop.received(next(ticks))
                if asked_to_stop is not None:
                    raise Stopped(asked_to_stop, num_steps)

            test = evaluated(data.test, on_batch=on_batch)
        writer.write(num_steps, "test", test.metrics)
        if not primary:
            return None

        variables = jax.device_get(state.variables)
        result = {
            **{f"test_{name}": value for name, value in test.metrics.items()},
            "test_examples": len(data.test),
            "best_validation_accuracy": record.best_accuracy,
            "best_validation_step": record.best_step,
            "num_parameters": num_parameters,
            "steps": num_steps,
            "reached_validation_accuracy": record.reached if target else None,
            "seconds": record.seconds,
            **_from_metrics(folder, config.batch_size),
            **provenance.fingerprint(variables.params),
        }
        write_json(folder.result, result)
        model = TrainedModel(config, graphdef, variables, record.best_accuracy)
        return TrainingResult(model, test, result)


def _is_due(steps_taken: int, every: int) -> bool:
    return every > 0 and steps_taken % every == 0


def _last_good(checkpoints: Checkpoints) -> str:
    step = checkpoints.latest_step()
    if step is None:
        return "there is no checkpoint yet"
    return f"the checkpoint of step {step} in {checkpoints.path} is good"


def _introduction(
    data: Dataset,
    config: Config,
    num_parameters: int,
    env: dict[str, Any],
    folder: RunFolder,
) -> str:
    devices = f"{env['num_devices']} x {env['device']}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    return (
        f"{config.model.name} with {num_parameters:,} parameters on {data.title}: "
        f"{len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images; {devices}\n"
        f"data: {data.provenance}\nrun folder {folder.path}"
    )


def _from_metrics(folder: RunFolder, batch_size: int) -> dict[str, Any]:
    """Final loss and speed, from the run's rows of metrics."""
    rows = [row for row in read_metrics(folder.metrics) if row["split"] == "train"]
    speeds = [row["images_per_s"] for row in rows if "images_per_s" in row]
    return {
        "seconds_per_step": batch_size / statistics.median(speeds) if speeds else None,
        "final_train_loss": rows[-1]["loss"],
    }
