"""What `benchmarks.ranking` sends requests to: services over HTTP, the graph and the rival's model in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch

from benchmarks.naive_model import NaiveDcnV2, NaiveFeatures, load_naive
from benchmarks.seeded import FP32, INT8, Seeded
from benchmarks.services import Client
from loadtests.sources.payloads import generate
from serving.contract.fields import FeatureSpec
from serving.features.columns import ColumnEncoder
from serving.features.requests import RequestDecoder
from serving.runtime.session import GraphSession

Arm = Callable[[int], object]
"""Serves the body of this number once."""

SESSION, SESSION_INT8, NAIVE_MODEL = "session_run", "session_run_int8", "naive_model"


def make_bodies(spec: FeatureSpec, size: int, *, count: int, seed: int) -> list[tuple[bytes, frozenset[str | int]]]:
    """Requests of `size` candidates, as the load test makes them up but without ``top_k``, with the candidates' ids."""
    bodies = []
    for body in generate(spec, sizes={size: 1.0}, max_candidates=size, seed=seed, count=count):
        document = msgspec.json.decode(body.data)
        del document["top_k"]
        bodies.append((msgspec.json.encode(document), body.ids))
    return bodies


def http_arm(client: Client, bodies: Sequence[bytes]) -> Arm:
    """Send the bodies in turn."""
    return lambda number: client.post(bodies[number % len(bodies)])


def local_arms(seeded: Seeded, bodies: Mapping[int, Sequence[bytes]], *, threads: int) -> dict[tuple[str, int], Arm]:
    """The graphs and the rival's model, given what the services would give them for these bodies of each size."""
    torch.set_num_threads(threads)
    arms: dict[tuple[str, int], Arm] = {}
    for name, bundle in ((SESSION, seeded.bundles[FP32]), (SESSION_INT8, seeded.bundles[INT8])):
        session = GraphSession(bundle.graph_path, threads=threads)
        for size, of_size in bodies.items():
            arms[name, size] = _session_arm(session, bundle.manifest.features, of_size)
    features, model = load_naive(seeded.naive)
    for size, of_size in bodies.items():
        arms[NAIVE_MODEL, size] = _naive_model_arm(features, model, of_size)
    return arms


def _session_arm(session: GraphSession, spec: FeatureSpec, bodies: Sequence[bytes]) -> Arm:
    decoder, encoder = RequestDecoder(spec, max_candidates=100_000), ColumnEncoder(spec)
    feeds = [encoder.encode([decoder.decode(body)]) for body in bodies]
    return lambda number: session.run(feeds[number % len(feeds)])


def _naive_model_arm(features: NaiveFeatures, model: NaiveDcnV2, bodies: Sequence[bytes]) -> Arm:
    documents = [msgspec.json.decode(body) for body in bodies]
    inputs = [features(document["user"], document["context"], document["candidates"]) for document in documents]

    def forward(number: int) -> object:
        with torch.inference_mode():
            return model(*inputs[number % len(inputs)])

    return forward
