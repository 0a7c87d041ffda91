"""The optimizer, without the import of the compiler."""

from inspect import unwrap

import torch


class Adam(torch.optim.Adam):
    """torch.optim.Adam that never imports torch._dynamo, which takes 2 s of CPU at the start of every process.

    torch's decorators import it to keep torch.compile out of these methods, and none of them is ever compiled here.
    """

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
