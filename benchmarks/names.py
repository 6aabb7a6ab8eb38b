"""The names of those that more than `line_up.py` speaks of. What tells results imports no TensorFlow."""

OURS, THROUGH_JUPYTER, PROTOBUF = "jupyter_tfserve", "jupyter_tfserve, through Jupyter", "jupyter_tfserve, protobuf"
BARE, FLOOR, EMPTY_JUPYTER = "bare burst server", "callable, no server", "empty, Jupyter Server"
