"""The fused kernels: interpreted where there is no GPU, else the real thing.

``pytest -m gpu`` runs them on a machine with a Hopper GPU; what only makes sense there
is skipped elsewhere.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax.sharding import PartitionSpec

from kernels import gpu
from kernels.routing import IMPLEMENTATIONS, route
from kernels.routing.dynamic import mosaic_gpu, xla
from kernels.routing.dynamic.mosaic_gpu import config as configs
from kernels.routing.dynamic.mosaic_gpu import op
from kernels.routing.dynamic.mosaic_gpu.config import Config, Problem
from kernels.routing.dynamic.workloads import WORKLOADS
from tests.kernels.routing import reference as routing_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:mosaic_gpu routing without a GPU"),
]
only_on_gpu = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs a Hopper GPU"
)

# B, I, P, J, Q: whole tiles; all odd; single; output capsules in three chunks, the last
# with filling; long and longest output capsules.
SIZES = {
    "whole": (64, 16, 8, 10, 16),
    "odd": (70, 13, 5, 3, 6),
    "ones": (1, 1, 1, 1, 1),
    "chunks": (3, 8, 8, 23, 16),
    "wide": (5, 8, 8, 6, 32),
    "widest": (5, 8, 4, 3, 64),
}


@pytest.fixture(autouse=True)
def no_races():
    """The interpreter watches all accesses to shared memory of a test."""
    yield
    races = gpu_callbacks._races  # None before the process's first interpreted kernel
    assert races is None or not races.races_found


def make_arguments(sizes, dtype, seed=0):
    """Inputs, weights, bias and a cotangent, rounded to the dtype, as float64."""
    B, I, P, J, Q = sizes
    rng = np.random.default_rng(seed)
    arguments = (
        rng.normal(size=(B, I, P)) / np.sqrt(P),
        rng.normal(size=(I, J, Q, P)) * 2 * J / np.sqrt(I * Q) / 3,
        rng.normal(size=(J, Q)) * 0.3,
        rng.normal(size=(B, J, Q)) * 1e-3,
    )
    return [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arguments]


def poses_and_gradients(function, arguments, dtype="float32", **options):
    """Poses and the gradients of inputs, weights and bias, as float64."""

    @jax.jit
    def call(*arguments):
        *primals, cotangent = arguments
        poses, vjp = jax.vjp(functools.partial(function, **options), *primals)
        return poses, *vjp(cotangent)

    results = call(*[jnp.asarray(x, dtype) for x in arguments])
    assert all(x.dtype == jnp.dtype(dtype) for x in results)
    return [np.asarray(x, np.float64) for x in results]


def exact_poses_and_gradients(arguments, **options):
    """In float64, by `dynamic.xla`, which test_dynamic holds to differences."""
    with jax.enable_x64(True):
        return poses_and_gradients(xla.route, arguments, "float64", **options)


def check(sizes, dtype, *, seed=0, config=None, **options):
    """Errors against float64 are within those of the same op, unfused, in 16 bits.

    Twice them for poses, three times for gradients, and a rounding of the operands'
    dtype on top: what the bound multiplies may be zero by luck.
    """
    options = {"num_iterations": 3, "leaky": False, "stop_gradient": False, **options}
    arguments = make_arguments(sizes, dtype, seed)
    fused = poses_and_gradients(
        mosaic_gpu.route, arguments, dtype, **options, config=config
    )
    half = "float16" if dtype == "float32" else dtype
    # Gradients are linear in the cotangent, so a power of two is only a scale. Without
    # it the unfused ones would underflow in float16.
    scaled = [*arguments[:3], arguments[3] * 2**8]
    unfused = poses_and_gradients(xla.route, scaled, half, **options)
    exact = exact_poses_and_gradients(scaled, **options)
    rounding = float(jnp.finfo(half).eps)
    names = ("poses", "inputs", "weights", "bias")
    for name, a, b, c in zip(names, fused, unfused, exact, strict=True):
        scale = 1 if name == "poses" else 2**8
        error, unfused_error = np.abs(a * scale - c).max(), np.abs(b - c).max()
        factor = 2 if name == "poses" else 3
        bound = factor * unfused_error + rounding * np.abs(c).max()
        assert error <= bound, (name, error, unfused_error, np.abs(c).max())


@pytest.mark.parametrize("name", SIZES)
def test_errors_are_those_of_half_precision(name):
    check(SIZES[name], "float32")


@pytest.mark.parametrize(
    ("name", "dtype"), [("odd", "bfloat16"), ("chunks", "bfloat16"), ("odd", "float16")]
)
def test_operands_in_half_precision(name, dtype):
    check(SIZES[name], dtype)


@pytest.mark.parametrize("num_iterations", [1, 2, 4])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_all_options(num_iterations, leaky, stop_gradient):
    check(
        SIZES["odd"],
        "float32",
        num_iterations=num_iterations,
        leaky=leaky,
        stop_gradient=stop_gradient,
    )


@pytest.mark.parametrize("stop_gradient", [False, True])
def test_leaky_over_chunks_of_output_capsules(stop_gradient):
    check(SIZES["chunks"], "float32", leaky=True, stop_gradient=stop_gradient)


@pytest.mark.parametrize(
    "config",
    [
        Config(1, 2, "shared", 4, 1),
        Config(3, 3, "registers", 2, 3),
        Config(4, 2, "registers", 1, 1),
    ],
)
def test_any_config_gives_the_same(config):
    """Groups that do not divide, more slots than steps, the batch in parts."""
    check((130, 24, 8, 4, 16), "float32", config=config)


def test_poses_equal_procedure_1():
    """Straight against the paper's procedure, which shares nothing with the kernels."""
    u, W, bias, _ = make_arguments(SIZES["odd"], "float32")
    expected, _ = routing_reference.route(u, W, bias, leaky=True)
    poses = route(
        *[jnp.asarray(x, jnp.float32) for x in (u, W, bias)],
        leaky=True,
        implementation="mosaic_gpu",
    )
    np.testing.assert_allclose(poses, expected, atol=2e-3)


@pytest.mark.parametrize("power", [-80, -40, 40])
def test_gradients_of_any_size_keep_their_digits(power):
    """float16 ends at 2^-24 and 2^16; a power of two more must change nothing."""
    arguments = make_arguments(SIZES["odd"], "float32")
    options = {"num_iterations": 2, "leaky": False, "stop_gradient": False}

    def call(arguments):
        return poses_and_gradients(mosaic_gpu.route, arguments, **options)

    _, *plain = call(arguments)
    _, *scaled = call([*arguments[:3], arguments[3] * 2.0**power])
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_array_equal(a, b * 2.0**-power)


def test_no_gradient_gives_zeros_and_nan_stays_nan():
    u, W, bias, g = make_arguments((2, 8, 4, 3, 8), "float32")
    options = {"num_iterations": 3, "leaky": False, "stop_gradient": False}

    def call(arguments):
        return poses_and_gradients(mosaic_gpu.route, arguments, **options)

    for gradient in call([u, W, bias, 0 * g])[1:]:
        assert not np.any(gradient)
    for gradient in call([u, W, bias, np.nan * g])[1:]:
        assert np.all(np.isnan(gradient))


def test_zero_inputs_give_zero_poses_and_finite_gradients():
    u, W, bias, g = make_arguments((2, 8, 4, 3, 8), "float32")
    options = {"num_iterations": 3, "leaky": False, "stop_gradient": False}
    poses, *gradients = poses_and_gradients(
        mosaic_gpu.route, [0 * u, W, 0 * bias, g], **options
    )
    assert not np.any(poses)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_large_logits_do_not_overflow():
    u, W, bias, g = make_arguments(SIZES["odd"], "float32")
    options = {"num_iterations": 3, "leaky": True, "stop_gradient": False}
    results = poses_and_gradients(mosaic_gpu.route, [u, 200 * W, bias, g], **options)
    assert all(np.all(np.isfinite(x)) for x in results)


# The interpreter computes in NumPy, which warns of what is to be seen here.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("inputs", "weights"), [(1e6, 1.0), (1.0, 1e7)])
def test_beyond_the_range_of_float16_poses_are_nan_and_not_merely_wrong(
    inputs, weights
):
    u, W, _, _ = make_arguments((2, 8, 4, 3, 8), "float32")
    poses = route(
        jnp.asarray(inputs * u, jnp.float32),
        jnp.asarray(weights * W, jnp.float32),
        implementation="mosaic_gpu",
    )
    assert np.all(np.isnan(poses))


def test_vmap_and_shard_map():
    u, W, bias, _ = make_arguments((3, 8, 4, 3, 8), "float32")
    u, W, bias = (jnp.asarray(x, jnp.float32) for x in (u, W, bias))

    def loss(implementation, u, W):
        poses = route(u, W, bias, num_iterations=2, implementation=implementation)
        return jnp.sum(jnp.square(poses))

    def both(transform):
        return [
            transform(jax.grad(functools.partial(loss, name), argnums=(0, 1)))
            for name in ("mosaic_gpu", "xla")
        ]

    mapped = [
        f(jnp.stack([u, -u]), W)
        for f in both(functools.partial(jax.vmap, in_axes=(0, None)))
    ]
    for a, b in zip(*mapped, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())
    # Over one device; the interpreter cannot have two. Two are compiled for instead, in
    # test_gpu_compile.
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (PartitionSpec("data"), PartitionSpec())
    for check_vma in (False, True):
        fused, unfused = both(lambda f: f)
        sharded = jax.shard_map(
            fused, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=check_vma
        )
        for a, b in zip(jax.jit(sharded)(u, W), unfused(u, W), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())


def test_remat():
    """Lowered for a GPU: the interpreter's callbacks cannot be rematerialized."""
    shapes = [(64, 16, 8), (16, 3, 16, 8)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def kernels(transform):
        def loss(u, W):
            return jnp.sum(route(u, W, num_iterations=2, implementation="mosaic_gpu"))

        with gpu.ahead_of_time("NVIDIA H200"):
            step = jax.jit(jax.grad(transform(loss)))
            lowered = step.trace(*arguments).lower(lowering_platforms=("cuda",))
        return lowered.as_text().count("mosaic_gpu_v2")

    # Forward two passes and two reductions; backward one of each and the last kernel.
    assert kernels(lambda f: f) == 4 + 3
    assert kernels(jax.checkpoint) == 4 + 3


def test_second_derivatives_are_refused_in_words():
    u, W, _, _ = (
        jnp.asarray(x, jnp.float32) for x in make_arguments((2, 8, 4, 3, 8), "float32")
    )

    def total(u):
        return jnp.sum(jnp.sin(route(u, W, implementation="mosaic_gpu")))

    with pytest.raises(NotImplementedError, match=r'no second derivatives.*"xla"'):
        jax.grad(lambda u: jnp.sum(jnp.square(jax.grad(total)(u))))(u)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(total, (u,), (u,))


@pytest.mark.parametrize(
    ("shapes", "dtype", "reason"),
    [
        (((2, 8, 9), (8, 3, 16, 9)), "float32", "9 dimensions, more than 8"),
        (((2, 8, 8), (8, 3, 65, 8)), "float32", "65 dimensions, more than 64"),
        (((2, 8, 8), (8, 3, 16, 8)), "float64", "float64"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_by_name(shapes, dtype, reason):
    with jax.enable_x64(True):
        arguments = [jnp.zeros(shape, dtype) for shape in shapes]
        with pytest.raises(
            NotImplementedError, match=rf"mosaic_gpu routing: .*{reason}"
        ):
            route(*arguments, implementation="mosaic_gpu")
        # Unnamed, another one does it.
        assert route(*arguments).shape == (2, *shapes[1][1:3])


class FakeDevice:
    platform = "gpu"
    device_kind = "NVIDIA A100"
    compute_capability = "8.0"


def test_other_gpus_are_refused_by_name_and_none_falls_back(monkeypatch):
    u, W = jnp.ones((2, 8, 8)), jnp.ones((8, 3, 16, 8))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [FakeDevice])
        patch.setattr(jax, "default_backend", lambda: "gpu")
        with pytest.raises(NotImplementedError, match=r"A100 .* capability 8\.0"):
            route(u, W, implementation="mosaic_gpu")
        assert mosaic_gpu.unsupported(u, W)
        patch.setattr(FakeDevice, "platform", "tpu")
        with pytest.raises(NotImplementedError, match="is a tpu, not an NVIDIA GPU"):
            route(u, W, implementation="mosaic_gpu")
        patch.setattr(FakeDevice, "platform", "gpu")
        patch.setattr(FakeDevice, "compute_capability", "9.0")
        assert mosaic_gpu.unsupported(u, W) is None


def test_none_takes_the_kernels_for_a_gpu_and_not_the_interpreter():
    shapes = [(64, 16, 8), (16, 3, 16, 8)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with gpu.ahead_of_time("NVIDIA H200"):
        traced = jax.jit(route).trace(*arguments)
        assert "mosaic_gpu" in traced.lower(lowering_platforms=("cuda",)).as_text()
    if gpu.interpreted():
        assert "callback" not in str(jax.make_jaxpr(route)(*arguments))


@pytest.mark.filterwarnings("error")
def test_the_interpreter_says_once_that_it_is_slow():
    if not gpu.interpreted():
        pytest.skip("there is a GPU")
    arguments = (jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1, 1)))
    op._warn_of_interpreter.cache_clear()
    with pytest.warns(UserWarning, match="interpreter: very slow, and for checking"):
        route(*arguments, implementation="mosaic_gpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        route(*arguments, implementation="mosaic_gpu")


@pytest.mark.parametrize("batch", [1, 128, 200, 1024])
@pytest.mark.parametrize("name", WORKLOADS)
def test_configs_fit_their_problem(name, batch):
    I, P, J, Q = WORKLOADS[name][:4]
    problem = Problem(batch, I, P, J, Q, "float32")
    for config in (configs.heuristic(problem), *configs.candidates(problem)):
        sizes = problem.sizes(config)
        assert sizes.G % config.groups_per_block == 0
        assert 0 <= 8 * sizes.G - I < I / 8 + 8
        assert sizes.chunk % config.final_chunk == 0
        assert sizes.row_tiles % config.final_row_blocks == 0
        assert sizes.chunk * sizes.Q <= 160
        assert sizes.J >= J
        assert sizes.B - 64 < batch <= sizes.B


def test_tuned_configs_are_found_again(monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "_TUNED", tmp_path / "tuned")
    problem = Problem(128, 1152, 8, 10, 16, "float32")
    other = problem._replace(B=256)
    first, second = list(configs.candidates(problem))[1:3]
    assert first != configs.heuristic(problem)
    configs.tuned.cache_clear()
    assert configs.choose(problem, "NVIDIA H200") == configs.heuristic(problem)
    configs.save_tuned("NVIDIA H200", {problem: first})
    path = configs.save_tuned("NVIDIA H200", {other: second})
    assert path == tmp_path / "tuned" / "nvidia_h200.json"
    assert configs.choose(problem, "NVIDIA H200") == first
    assert configs.choose(other, "NVIDIA H200") == second
    assert configs.choose(problem, "NVIDIA H100") == configs.heuristic(problem)
    configs.tuned.cache_clear()


def test_the_kernels_are_among_the_implementations():
    assert list(IMPLEMENTATIONS) == ["mosaic_gpu", "xla", "reference"]


@only_on_gpu
@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_workloads(name, dtype):
    workload = WORKLOADS[name]
    check(
        (128, *workload[:4]),
        dtype,
        num_iterations=workload.num_iterations,
        leaky=workload.leaky,
    )


@only_on_gpu
def test_the_same_input_gives_the_same_bits():
    """A hundred times: a race on the device would show as a difference."""
    arguments = [*WORKLOADS["mnist"].arguments(256, jnp.float32)]
    arguments.append(jnp.ones((256, 10, 16)))

    @jax.jit
    def call(*arguments):
        *primals, cotangent = arguments
        run = functools.partial(route, implementation="mosaic_gpu")
        poses, vjp = jax.vjp(run, *primals)
        return poses, *vjp(cotangent)

    first = [np.asarray(x) for x in call(*arguments)]
    for _ in range(100):
        for a, b in zip(first, call(*arguments), strict=True):
            np.testing.assert_array_equal(a, b)
