"""What the model server uses of TensorFlow to load and run SavedModels, each from the module that defines it: the
package itself, which imports thrice as much, can be postponed then (`memory.py`). Where a module is not what it is in
the versions that we know, the package is imported after all.
"""

from __future__ import annotations

from .memory import is_postponed, whole_tensorflow

try:
    if not is_postponed():
        raise ImportError
    from tensorflow.python.client.session import Session
    from tensorflow.python.compat.v2_compat import enable_v2_behavior
    from tensorflow.python.eager.context import context
    from tensorflow.python.framework import errors
    from tensorflow.python.framework.dtypes import as_dtype, float32
    from tensorflow.python.framework.ops import Graph
    from tensorflow.python.framework.ops import device_v2 as device
    from tensorflow.python.framework.tensor_util import MakeNdarray as make_ndarray
    from tensorflow.python.lib.io.tf_record import TFRecordWriter, tf_record_iterator
    from tensorflow.python.ops.array_ops import placeholder
    from tensorflow.python.ops.gen_math_ops import add
    from tensorflow.python.ops.gen_resource_variable_ops import var_is_initialized_op
    from tensorflow.python.platform.build_info import build_info
    from tensorflow.python.platform.tf_logging import get_logger
    from tensorflow.python.saved_model.loader_impl import load as load_saved_model

    list_physical_devices = context().list_physical_devices
    enable_v2_behavior()  # as the package does; it must precede the first graph
except (ImportError, AttributeError):
    _tf = whole_tensorflow()
    Session, Graph, device, errors = _tf.compat.v1.Session, _tf.Graph, _tf.device, _tf.errors
    as_dtype, float32, make_ndarray = _tf.as_dtype, _tf.float32, _tf.make_ndarray
    TFRecordWriter, tf_record_iterator = _tf.io.TFRecordWriter, _tf.compat.v1.io.tf_record_iterator
    placeholder, add, var_is_initialized_op = _tf.compat.v1.placeholder, _tf.add, _tf.raw_ops.VarIsInitializedOp
    build_info, list_physical_devices = _tf.sysconfig.get_build_info(), _tf.config.list_physical_devices
    get_logger, load_saved_model = _tf.get_logger, _tf.compat.v1.saved_model.load

__all__ = [
    "Graph",
    "Session",
    "TFRecordWriter",
    "add",
    "as_dtype",
    "build_info",
    "device",
    "errors",
    "float32",
    "get_logger",
    "list_physical_devices",
    "load_saved_model",
    "make_ndarray",
    "placeholder",
    "tf_record_iterator",
    "var_is_initialized_op",
]
