"""``tfserve``, ``python -m jupyter_tfserve.model_server``."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys

from . import instances
from .flags import parse
from .memory import leave_out_tensorflow, postpone_tensorflow
from .owner import end_with_owner
from .workers.choice import is_front
from .workers.gently import gently


def main() -> None:
    """Read the command line, then import what is slow."""
    flags = parse(sys.argv[1:])
    faulthandler.enable(all_threads=False)  # a crash leaves a word in the log
    if flags.owner_fd >= 0:
        end_with_owner(flags.owner_fd, flags.management_socket)
    if flags.instances > 1 and not flags.version:
        sys.exit(instances.run(flags, sys.argv[1:]))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if flags.xla_cpu_compilation_enabled:  # TensorFlow reads it when it is imported
        os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} --tf_xla_cpu_global_jit".strip()
    if not flags.version and is_front(flags):
        leave_out_tensorflow()
        from .front_app import run_front as run
    else:
        postpone_tensorflow()
        if flags.worker:
            gently(lambda: importlib.import_module("jupyter_tfserve.model_server.local"))
        from .app import run

    status = run(flags)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for every thread, and one that loads a model or runs a request past the drain's time
    # cannot be stopped.
    os._exit(status)


if __name__ == "__main__":
    main()
