"""A client of a router with TLS, tokens and client certificates, over gRPC and over HTTPS.

Beside it: ca.pem (who vouches for the router), client.cert.pem and client.key.pem (only for a router that was started
with --tls-client-ca). The token comes from the environment, since others on the machine see command lines.
"""

import os
import ssl
from pathlib import Path

import grpc
import openai

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2

TOKEN = os.environ["PACELINE_TOKEN"]

credentials = grpc.ssl_channel_credentials(
    root_certificates=Path("ca.pem").read_bytes(),
    certificate_chain=Path("client.cert.pem").read_bytes(),
    private_key=Path("client.key.pem").read_bytes(),
)
with grpc.secure_channel("127.0.0.1:7700", credentials) as channel:
    request = generation_pb2.GenerateRequest(
        text="once upon a time", limits=types_pb2.Limits(max_tokens=20), sampling=types_pb2.Sampling(seed=1)
    )
    metadata = [("authorization", f"Bearer {TOKEN}")]
    events = router_pb2_grpc.RouterStub(channel).Generate(request, metadata=metadata)
    print("gRPC:", "".join(event.tokens.text for event in events))

context = ssl.create_default_context(cafile="ca.pem")
context.load_cert_chain("client.cert.pem", "client.key.pem")
client = openai.OpenAI(
    base_url="https://127.0.0.1:8000/v1", api_key=TOKEN, http_client=openai.DefaultHttpxClient(verify=context)
)
model = client.models.list().data[0].id
done = client.completions.create(model=model, prompt="once upon a time", temperature=0, seed=1, max_tokens=20)
print("HTTPS:", done.choices[0].text)
