"""Several workers together see each record once an epoch; a killed run continues where it stopped."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from pipeline import iterate_batches
from pipeline.order import permute

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers.synthetic import Synthetic

_EPOCHS, _COUNT, _BATCH_SIZE = 2, 33, 4

# Trains one weight, which the workers share; the first pixel of an image is its number.
_WORKER = f"""
import json, sys
import tensorflow as tf
from pipeline import make_dataset
records, batch_size = sys.argv[1], int(sys.argv[2])
strategy = tf.distribute.MultiWorkerMirroredStrategy()

def of_this_worker(context):
    share = context.input_pipeline_id, context.num_input_pipelines
    return make_dataset(records, batch_size=batch_size, epochs={_EPOCHS}, seed=7, shard=share, drop_remainder=True)

with strategy.scope():
    weight = tf.Variable(0.0, dtype=tf.float64)

def step(images, masks):
    numbers = tf.cast(images[:, 0, 0, 0], tf.float64)
    replica = tf.distribute.get_replica_context()
    gradient = replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(numbers) / 100)
    weight.assign(0.9 * weight + gradient)
    return numbers

seen = []
for images, masks in strategy.distribute_datasets_from_function(of_this_worker):
    numbers = strategy.run(step, (images, masks))
    seen.append([int(number) for number in strategy.experimental_local_results(numbers)[0]])
print(json.dumps({{"seen": seen, "weight": float(weight.numpy())}}))
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _train(records: pathlib.Path, workers: int, batch_size: int) -> list[dict]:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in _free_ports(workers)]}
    processes = []
    for index in range(workers):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(records), str(batch_size)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "", "GRPC_ENABLE_FORK_SUPPORT": "0"},
            )
        )
    said = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    for process, (_, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


@pytest.mark.slow
def test_two_workers_of_multi_worker_mirrored_strategy_train_as_one(synthetic: Synthetic) -> None:
    """Each sees its share of the epoch's order; together they train like one worker with batches twice as large."""
    records = synthetic(_COUNT)
    found = _train(records, 2, _BATCH_SIZE)
    share = _COUNT // 2
    for epoch in range(_EPOCHS):
        order = permute(np.arange(2 * share), _COUNT, 7, epoch)
        steps = share // _BATCH_SIZE
        for index, worker in enumerate(found):
            seen = worker["seen"][epoch * steps : (epoch + 1) * steps]
            assert np.concatenate(seen).tolist() == order[index::2][: steps * _BATCH_SIZE].tolist()
        together = [number for worker in found for batch in worker["seen"][epoch * steps :][:steps] for number in batch]
        assert len(set(together)) == len(together) == 2 * steps * _BATCH_SIZE
    (alone,) = _train(records, 1, 2 * _BATCH_SIZE)
    both = [sorted(one + other) for one, other in zip(*(worker["seen"] for worker in found), strict=True)]
    assert both == [sorted(batch) for batch in alone["seen"]]
    for worker in found:
        assert worker["weight"] == pytest.approx(alone["weight"], rel=1e-12)


# Prints each batch that it trains on, and is killed after one of them.
_TRAINING = """
import hashlib, os, signal, sys
import pipeline
records, reader, start_step, kill_after = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
arguments = dict(batch_size=5, seed=3, epochs=4, start_step=start_step)
batches = {
    "iterate_batches": lambda: pipeline.iterate_batches(records, **arguments),
    "make_dataset": lambda: pipeline.make_dataset(records, **arguments).as_numpy_iterator(),
}[reader]()
for step, (images, masks) in enumerate(batches, start=start_step):
    print(step, hashlib.sha256(images.tobytes() + masks.tobytes()).hexdigest(), flush=True)
    if step == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("reader", ["iterate_batches", "make_dataset"])
def test_a_killed_run_goes_on_where_it_stopped(synthetic: Synthetic, reader: str) -> None:
    records = synthetic(_COUNT)

    def train(start_step: int, kill_after: int) -> list[str]:
        command = [sys.executable, "-c", _TRAINING, str(records), reader, str(start_step), str(kill_after)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.splitlines()

    whole = train(0, -1)
    assert len(whole) == len(iterate_batches(records, batch_size=5, epochs=4)) == 28
    resumed: list[str] = []
    for kill_after in (0, 9, -1):
        resumed += train(len(resumed), kill_after)
    assert resumed == whole


# Killed in the middle of an epoch; BackupAndRestore restores the end of the epoch before.
_KERAS = """
import json, os, pathlib, signal, sys
import keras
from pipeline import Records, make_dataset
records, backup, kill_in_epoch = Records(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (kill_in_epoch, 3):
            os.kill(os.getpid(), signal.SIGKILL)

state = backup / "training_metadata.json"
epoch = json.loads(state.read_text())["epoch"] if state.exists() else 0
steps_per_epoch = records.info.splits["train"].steps_per_epoch(5)
train = make_dataset(records, batch_size=5, seed=3, start_step=epoch * steps_per_epoch, standardize=True)
keras.utils.set_random_seed(0)
layers = [keras.Input((6, 5, 1)), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
model = keras.Sequential(layers)
model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "binary_crossentropy", jit_compile=False)
callbacks = [keras.callbacks.BackupAndRestore(backup), Kill()]
model.fit(train, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
print(epoch, *(float(weight) for weights in model.get_weights() for weight in weights.ravel()))
"""


@pytest.mark.slow
def test_backup_and_restore_of_keras_resumes_with_the_order_of_the_next_epoch(
    synthetic: Synthetic, tmp_path: pathlib.Path
) -> None:
    records = synthetic(_COUNT)

    def train(backup: str, kill_in_epoch: int) -> list[str]:
        command = [sys.executable, "-c", _KERAS, str(records), str(tmp_path / backup), str(kill_in_epoch)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.split()

    epoch, *weights = train("whole", -1)
    assert epoch == "0"
    assert len(weights) == 10
    assert train("killed", 2) == []
    assert train("killed", -1) == ["2", *weights]
