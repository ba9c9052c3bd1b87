"""Asking a model leaves nothing behind: neither objects that the collector tracks nor contexts that hold one another.

What goes BentoML's way, as a scrape does, leaves a timer of its middleware for 30 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from service_processes import ROOT, environment_of

from serving.contract.bundle import Bundle

REQUESTS, ROUNDS = 300, 4
SERVER = """
import asyncio, gc, http.client, io, json, sys
import pyarrow as pa, uvicorn
from serving.services.ranking import RankingService

requests, rounds = map(int, sys.argv[1:])
document = {"context": {"device": "phone"}, "candidates": [{"id": str(i)} for i in range(5)]}
batch = pa.RecordBatch.from_pylist([document])
sink = io.BytesIO()
with pa.ipc.new_stream(sink, batch.schema) as writer:
    writer.write_batch(batch)
kinds = {
    "json": ("POST", "/v1/rank", json.dumps(document), {}, 200),
    "arrow": ("POST", "/v1/rank", sink.getvalue(), {"content-type": "application/vnd.apache.arrow.stream"}, 200),
    "refused": ("POST", "/v1/rank", '{"candidates": []}', {}, 422),
    "named": ("POST", "/v1/models/tiny/rank", json.dumps(document), {"traceparent": f"00-{'4b' * 16}-{'00f0' * 4}-01"}, 200),
}

def ask(port):
    counts = {}
    for kind, (method, path, body, headers, status) in kinds.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        counts[kind] = []
        for _ in range(rounds):
            for _ in range(requests):
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status, (kind, answer.status)
            gc.collect()
            counts[kind].append(len(gc.get_objects()))
        connection.close()
    return counts

async def main():
    server = uvicorn.Server(uvicorn.Config(RankingService.to_asgi(), host="127.0.0.1", port=0, log_level="error", loop="uvloop"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    counts = await asyncio.to_thread(ask, server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    await serving
    print(json.dumps(counts))

asyncio.run(main())
"""


def test_tracked_objects_do_not_grow_with_requests_on_a_connection(tiny_bundle: Bundle, tmp_path: Path) -> None:
    environment = environment_of(tmp_path, PILOTAGE_BUNDLE=str(tiny_bundle.path), PILOTAGE_LOG_LEVEL="ERROR")
    command = [sys.executable, "-c", SERVER, str(REQUESTS), str(ROUNDS)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, counts in json.loads(done.stdout.splitlines()[-1]).items():
        grown = counts[-1] - counts[1]  # the first round fills caches
        assert grown < REQUESTS // 3, (kind, counts)  # one object a request would be 600
