"""brickyard: a zoo of multi-task vision models made of bricks.

    import brickyard

    model = brickyard.create_model("tf_efficientnet_lite0_cls.in1k", pretrained=True)

The public names are listed in `__init__.pyi`. Each one loads its module when it is first used, so `import brickyard`
itself loads no torch.
"""

import lazy_loader

from brickyard.core.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
