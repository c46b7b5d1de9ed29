"""Turns a torchvision that cannot find CUDA into one that can be imported: the door to torchvision, open_clip and timm.

The package index serves torchvision built for CUDA. Beside a CPU build of torch its compiled part cannot be loaded, so
its operators stay undeclared, and `import torchvision` stops with "operator torchvision::nms does not exist" when it
describes them to the tracer. open_clip and timm need only what is pure Python in it (transforms, a frozen batch norm),
so declaring the operators is enough. Calling one still raises torchvision's own error.

open_clip, timm and torchvision are imported after `ensure_torchvision()`, never before. Where torch and torchvision are
of one build, nothing is changed.
"""

import sys

import torch

# The operators that torchvision describes while it is imported, as its compiled part would declare them.
_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library object


def ensure_torchvision() -> bool:
    """Import torchvision, declaring its operators where its compiled part cannot be loaded. True if that was needed."""
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return bool(_declared)
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    import torchvision  # noqa: F401

    return True
