"""A gRPC client: tokens as they come and who drafted each, an answer that is broken off, and the rest of it."""

import grpc

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2

ROUTER = "127.0.0.1:7700"


def request(committed: list[int]) -> generation_pb2.GenerateRequest:
    """The same prompt and seed give the same tokens. What is in `committed` is there already, and counts."""
    return generation_pb2.GenerateRequest(
        messages={"messages": [{"role": "user", "content": "Name three rivers, and a town on each."}]},
        sampling=types_pb2.Sampling(temperature=0.8, top_p=0.95, seed=7),
        limits=types_pb2.Limits(max_tokens=60),
        committed=types_pb2.TokenIds(ids=committed) if committed else None,
    )


def drafters_of(tokens: generation_pb2.Tokens) -> list[str]:
    """Who proposed each token; `-` for those that the model said without being asked."""
    return ["-" if source == 0 else tokens.source_names[source - 1] for source in tokens.sources]


with grpc.insecure_channel(ROUTER) as channel:
    router = router_pb2_grpc.RouterStub(channel)

    whole: list[int] = []
    for event in router.Generate(request([])):
        if event.HasField("tokens"):
            whole += event.tokens.ids
            print(f"{event.tokens.text!r:30} {' '.join(drafters_of(event.tokens))}")
        elif event.HasField("finished"):
            total = event.finished.total
            print(f"{len(whole)} tokens in {total.steps} steps and {total.elapsed_s:.2f} s")

    begun: list[int] = []
    call = router.Generate(request([]))
    for event in call:
        begun += event.tokens.ids
        if len(begun) >= 20:
            call.cancel()  # the verifier stops at once
            break

    rest = [token for event in router.Generate(request(begun)) for token in event.tokens.ids]
    print(f"broken off after {len(begun)}, gone on for {len(rest)}: the same answer is {begun + rest == whole}")
