"""Training, from a config and data to a run folder with a result."""

import statistics
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from capsjax import config as config_lib
from capsjax import plots, provenance, train_step
from capsjax.checkpoint import Checkpoints, Record
from capsjax.data import Dataset, TrainBatches
from capsjax.errors import UserError
from capsjax.evaluate import evaluate, make_eval_step, make_reconstruct
from capsjax.progress import Progress
from capsjax.run_folder import RunFolder, write_json
from capsjax.train_log import TrainLog
from capsjax.writers import MetricsWriter, read_metrics


def train(
    config: ConfigDict, data: Dataset, folder: RunFolder, *, resume: bool = False
) -> dict[str, Any]:
    """Trains a model, evaluates it on the test images, and fills the run folder.

    The test images are used once, at the end, on the parameters of the last step:
    nothing is selected by them. Training is a function of the config and the data
    alone, so a resumed run ends as an uninterrupted one.

    Args:
        config: the run's; see `capsjax.config.base`.
        data: what to train, validate and test on.
        folder: new or empty, unless ``resume``.
        resume: continues from the last checkpoint in the folder, if there is one.

    Returns:
        What ``result.json`` holds.

    Raises:
        UserError: settings or a folder that do not fit, or a loss that is not finite.
    """
    config_lib.check(config)
    batches = TrainBatches(data.train, config.batch_size, config.seed)
    num_steps = config.num_epochs * batches.steps_per_epoch
    if config.max_steps:
        num_steps = min(num_steps, config.max_steps)
    graphdef, state = train_step.create(config, data.image_shape, data.num_classes)
    num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
    train_fn = train_step.make_train_step(graphdef, config)
    eval_fn = make_eval_step(graphdef, config)

    folder.open(config, resume=resume)
    with Checkpoints(folder) as checkpoints:
        record = Record()
        resuming = resume and checkpoints.latest_step() is not None
        if resuming:
            state, record = checkpoints.restore(state)
        first_step = int(state.step)
        if first_step > num_steps:
            raise UserError(
                f"the run in {folder.path} has taken {first_step} steps already, more "
                f"than the {num_steps} that its config asks for now"
            )
        folder.record_config(config)
        env = provenance.environment() | {"data": data.provenance}
        folder.record_env(env, resumed_at=first_step if resuming else None)
        print(
            f"{config.model.name} with {num_parameters:,} parameters on {data.name}: "
            f"{len(data.train):,} training, {len(data.validation):,} validation, "
            f"{len(data.test):,} test images; {env['num_devices']} x {env['device']}\n"
            f"run folder {folder.path}"
            + (f", resumed at step {first_step}" if resuming else ""),
            flush=True,
        )

        started = time.monotonic() - record.seconds
        with (
            MetricsWriter(folder, resume_step=first_step) as writer,
            Progress(
                "training",
                num_steps,
                unit="images",
                done=first_step,
                scale=config.batch_size,
            ) as progress,
        ):
            log = TrainLog(config, batches.steps_per_epoch, writer, progress)
            for step in range(first_step, num_steps):
                state, metrics = train_fn(state, batches.batch(step))
                log.add(step, metrics)
                progress.advance()

                taken = step + 1
                evaluate_now = (
                    taken % batches.steps_per_epoch == 0 or taken == num_steps
                )
                save_now = evaluate_now or _is_due(taken, config.checkpoint_every_steps)
                if save_now or _is_due(taken, config.log_every_steps):
                    log.flush(_where_safe(checkpoints, folder))
                if evaluate_now and len(data.validation):
                    found = evaluate(
                        eval_fn, state.params, data.validation, config.batch_size
                    ).metrics
                    writer.write(taken, "validation", found)
                    progress.show(validation=f"{found['accuracy']:.4f}")
                    best = record.best_accuracy
                    if best is None or found["accuracy"] > best:
                        record.best_accuracy = found["accuracy"]
                        record.best_step = taken
                        checkpoints.save("best", state, record)
                if save_now:
                    record.seconds = time.monotonic() - started
                    checkpoints.save("last", state, record)
                    log.restart_timer()

            progress.close()
            with Progress("testing", len(data.test), unit="images") as progress:
                test = evaluate(
                    eval_fn,
                    state.params,
                    data.test,
                    config.batch_size,
                    on_batch=progress.advance,
                )
            writer.write(num_steps, "test", test.metrics)

    rows = [row for row in read_metrics(folder.metrics) if row["split"] == "train"]
    speeds = [row["images_per_s"] for row in rows if "images_per_s" in row]
    result = {
        "test_accuracy": test.metrics["accuracy"],
        "test_error_percent": test.metrics["error_percent"],
        "test_examples": len(data.test),
        "best_validation_accuracy": record.best_accuracy,
        "best_validation_step": record.best_step,
        "num_parameters": num_parameters,
        "steps": num_steps,
        "seconds": record.seconds,
        "seconds_per_step": (
            config.batch_size / statistics.median(speeds) if speeds else None
        ),
        "final_train_loss": rows[-1]["loss"],
        **provenance.fingerprint(state.params),
    }
    write_json(folder.result, result)
    plots.write_all(
        folder,
        data,
        predictions=test.predictions,
        reconstruct=make_reconstruct(graphdef, config),
        params=state.params,
    )
    print(
        f"test accuracy {result['test_accuracy']:.4f} "
        f"({result['test_error_percent']:.2f} % error) after {num_steps} steps in "
        f"{result['seconds']:.0f} s; see {folder.result.name} and {folder.plots.name}/ "
        f"in {folder.path}",
        flush=True,
    )
    return result


def _is_due(steps_taken: int, every: int) -> bool:
    return every > 0 and steps_taken % every == 0


def _where_safe(checkpoints: Checkpoints, folder: RunFolder) -> str:
    step = checkpoints.latest_step()
    if step is None:
        return "there is no checkpoint yet"
    return f"the checkpoint of step {step} in {folder.checkpoints} is good"
