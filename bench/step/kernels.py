"""The kernels of a compiled training step on a GPU and the bytes they move, counted without one.

The step is traced on fake tensors and scheduled by Inductor itself, as torch.compile does before it generates code.
Forward, loss and backward are counted; the optimizer, which is not compiled, and launches are not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext, tracing
from torch._inductor import compile_fx, ir
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode, Scheduler
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ...losses import ColorLoss
from ...models import Colorizer, bias_relu
from ...pipelines import LabBatch
from .fake_cuda import CUDA, fake_cuda, replaced


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel: its kind, the bytes that it reads and writes at least, and the operators that it computes."""

    kind: str
    num_bytes: int
    operators: tuple[str, ...]


class _Step(nn.Module):
    """A training step up to its loss: network and loss, in the precision of autocast."""

    def __init__(self, colorizer: Colorizer, loss: ColorLoss, dtype: torch.dtype) -> None:
        super().__init__()
        self.colorizer, self.loss, self._dtype = colorizer, loss, dtype

    def forward(self, L: Tensor, ab: Tensor) -> Tensor:
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            prediction = self.colorizer(L)
        total: Tensor = self.loss(prediction, LabBatch(L=L, ab=ab, index=torch.empty(0))).total
        return total


def trace_step(
    colorizer: Colorizer,
    loss: ColorLoss,
    *,
    batch_size: int,
    size: int,
    dtype: torch.dtype,
    capability: float,
    multiprocessors: int,
) -> list[Kernel]:
    """Returns the kernels of a step, as torch.compile's default mode schedules them for a GPU.

    `dtype` is that of autocast, float32 for none. Raises ValueError where torch's internals are others than known.
    """
    kernels: list[Kernel] = []
    module, mode = _Step(colorizer, loss, dtype), FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with mode:
        weights = {name: _like(value).requires_grad_() for name, value in module.named_parameters()}
        state = weights | {name: _like(value) for name, value in module.named_buffers()}
        lab = torch.empty(batch_size, 3, size, size)  # loaders' L and ab are views of one tensor, too

    def step(*tensors: Tensor) -> Any:
        return functional_call(module, dict(zip(state, tensors, strict=False)), tensors[-2:])

    def compile_graph(graph: GraphModule, inputs: Sequence[Any], *, is_backward: bool) -> Callable[..., Any]:
        outputs: Any = graph.graph.output_node().args[0]
        results = [node.meta["val"] if isinstance(node, Node) else None for node in outputs]
        with fake_cuda(capability=capability, multiprocessors=multiprocessors):
            kernels.extend(_schedule(graph, inputs, is_backward))

        def run(*arguments: Any) -> list[Tensor | None]:
            with mode:
                return [None if value is None else _like(value) for value in results]

        return make_boxed_func(run)

    compiled = aot_function(
        step,
        fw_compiler=partial(compile_graph, is_backward=False),
        bw_compiler=partial(compile_graph, is_backward=True),
        partition_fn=_partition,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,
    )
    with _compiling_for_gpu(), tracing(TracingContext(mode)):
        with mode:
            total = compiled(*state.values(), lab[:, :1], lab[:, 1:])
        total.backward()  # compiled now; graphs with constants cannot be copied in the mode
    return kernels


@contextmanager
def _compiling_for_gpu() -> Iterator[None]:
    """Lets a trace on the CPU be that of a GPU: a build without CUDA has no autograd there. `_schedule` moves it."""
    replacements = {
        "torch._inductor.decomposition.is_gpu": lambda device: True,
        "torch.compiler.is_compiling": lambda: True,
    }
    with replaced(replacements), patch.object(bias_relu, "is_fused", lambda x: True):
        yield


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def _partition(joint: GraphModule, inputs: Any, **settings: Any) -> Any:
    """Returns the forward and the backward graph, divided as torch.compile does."""
    compile_fx._recursive_joint_graph_passes(joint)
    return min_cut_rematerialization_partition(joint, inputs, **{**settings, "compiler": "inductor"})


def _schedule(graph: GraphModule, inputs: Sequence[Any], is_backward: bool) -> list[Kernel]:
    """Returns the kernels that Inductor schedules for a graph of CPU tensors, as if they were on the GPU."""
    mode = torch._guards.detect_fake_mode(inputs)
    assert mode is not None
    constants = list(_constants_as_inputs(graph))
    for node in graph.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": CUDA}
    on_gpu = [_on_gpu(value, mode) for value in [*inputs, *constants]]
    with torch.no_grad(), V.set_fake_mode(mode):
        compile_fx.view_to_reshape(graph)
        compile_fx.fake_tensor_prop(graph, on_gpu, True)
        compile_fx._recursive_record_original_output_strides(graph)
        compile_fx._recursive_post_grad_passes(graph, is_inference=False)
        lowering = GraphLowering(graph, example_inputs=on_gpu, is_backward=is_backward, shape_env=mode.shape_env)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]), V.set_debug_handler(DebugContext()):
            lowering.run(*on_gpu)
            _report_strides(lowering)
            lowering.init_wrapper_code()
            lowering._update_scheduler()
            return list(_kernels(lowering.scheduler, is_backward))


def _constants_as_inputs(graph: GraphModule) -> Iterator[Tensor]:
    """Makes the graph's constants its last inputs; yields them."""
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for number, node in enumerate([node for node in graph.graph.nodes if node.op == "get_attr"]):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{number}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        yield getattr(graph, node.target)
    graph.recompile()


def _on_gpu(value: Any, mode: FakeTensorMode) -> Any:
    if not isinstance(value, Tensor):
        return value
    meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return FakeTensor(mode, meta, CUDA)


def _report_strides(lowering: GraphLowering) -> None:
    """Tells AOTAutograd the layout of what the forward graph saves, which the backward graph reads."""
    strides = TracingContext.get().output_strides
    if strides is not None:
        for output in lowering.graph_outputs or []:
            is_tensor = isinstance(output, ir.IRNode) and output.has_tensor_output()
            strides.append(tuple(int(stride) for stride in output.get_stride()) if is_tensor else None)


def _kernels(schedule: Scheduler, is_backward: bool) -> Iterator[Kernel]:
    for node in schedule.nodes:
        is_library_call = isinstance(node, ExternKernelSchedulerNode)
        if isinstance(node, NopKernelSchedulerNode) or (is_library_call and isinstance(node.node, ir.MultiOutput)):
            continue
        operators = _operators(node)
        yield Kernel(
            kind=_kind(node, operators, is_library_call, is_backward),
            num_bytes=node.get_read_write_buffers_sizes(),
            operators=operators,
        )


def _operators(node: BaseSchedulerNode) -> tuple[str, ...]:
    origins = (origin for part in node.get_nodes() if part.node is not None for origin in part.node.get_origins())
    names = {str(origin.target) for origin in origins if origin.op == "call_function"}
    return tuple(sorted(name.removeprefix("aten.").partition(".")[0] for name in names))


def _kind(node: BaseSchedulerNode, operators: tuple[str, ...], is_library_call: bool, is_backward: bool) -> str:
    """Returns the class of a kernel in the network of 3x3 convolutions with ReLU and BatchNorm."""
    if is_library_call:
        call = f"{getattr(node.node, 'op_overload', '')} {getattr(node.node, 'python_kernel_name', '')}"
        return "convolutions" if "convolution" in call else "other library calls"
    is_reduction = any(part.is_reduction() for part in node.get_nodes())
    if is_backward:
        return "bias gradients and sums, backward" if is_reduction else "ReLU and BatchNorm, backward"
    if "relu" in operators and "var_mean" not in operators:
        return "bias and ReLU"  # packing the mask's bits is a reduction
    if is_reduction:
        return "BatchNorm statistics and loss"
    return "BatchNorm" if "var_mean" in operators else "bias and ReLU"
