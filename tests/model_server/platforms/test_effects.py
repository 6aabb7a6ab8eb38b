"""What in a graph keeps state: graphs as TF1 and TF2 write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from jupyter_tfserve.model_server.platforms.effects import Effects

tf1 = tf.compat.v1


def effect(build: Callable[[Any], Any], feed: str = "x:0") -> str:
    """Of fetching what `build` makes of a placeholder."""
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None], name="x")
        fetched = build(x).name
    return Effects(graph.as_graph_def()).of({feed}, [fetched])


def assign_in_tf1(x: Any) -> Any:
    return tf1.assign_add(tf1.Variable(0.0, use_resource=False), tf.reduce_sum(x))


def aside(x: Any) -> Any:
    with tf.control_dependencies([tf.print("aside")]):
        return tf.identity(x)


def not_asked_for(x: Any) -> Any:
    tf.random.uniform([3])
    return x * 2


def in_a_loop(x: Any) -> Any:
    return tf.while_loop(lambda n: n < 3, lambda n: n + 1 + tf.random.uniform([], 0, 2, tf.int32), [0])[0]


def in_a_function(x: Any) -> Any:
    return tf.function(lambda y: tf.function(lambda z: z + tf.random.normal([]))(y))(x)


def in_order(x: Any) -> Any:
    return tf.foldl(lambda total, one: total + one, x)


@pytest.mark.parametrize(
    ("build", "op"),
    [
        (lambda x: x * 2, ""),
        (lambda x: x + tf1.Variable(1.0, use_resource=False), ""),
        (lambda x: x + tf1.Variable(1.0, use_resource=True), ""),
        (lambda x: tf.random.stateless_uniform([3], (1, 2)) + x, ""),
        (in_order, ""),
        (not_asked_for, ""),
        (assign_in_tf1, "AssignAdd"),
        (aside, "PrintV2"),
        (lambda x: x + tf.random.uniform([]), "RandomUniform"),
        (in_a_loop, "RandomUniformInt"),
        (in_a_function, "RandomStandardNormal"),
    ],
)
def test_what_a_fetch_does(build: Callable[[Any], Any], op: str) -> None:
    assert effect(build) == op


def test_what_is_fed_is_not_run() -> None:
    assert effect(lambda x: tf.random.uniform([], name="drawn") * 2, "drawn/RandomUniform:0") == ""


def test_what_nobody_knows_may_do_anything() -> None:
    graph = tf1.GraphDef()
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="y", op="SomebodysOwn", input=["x"])
    assert Effects(graph).of({"x:0"}, ["y:0"]) == "SomebodysOwn"
