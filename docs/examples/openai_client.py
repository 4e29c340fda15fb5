"""OpenAI's own client: a chat, a stream, an answer with a form, and what only Paceline takes."""

import json

import openai

client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")  # or a tenant's token
model = client.models.list().data[0].id
question = [{"role": "user", "content": "Name three rivers."}]

chat = client.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=40)
print("chat:", chat.choices[0].message.content)

print("stream:", end=" ")
for chunk in client.chat.completions.create(model=model, messages=question, seed=1, max_tokens=40, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

form = {
    "type": "object",
    "properties": {
        "river": {"type": "string", "maxLength": 20},
        "kilometres": {"type": "integer", "minimum": 1, "maximum": 7000},
    },
    "required": ["river", "kilometres"],
    "additionalProperties": False,
}
answer = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Describe a river as JSON."}],
    seed=1,
    max_tokens=120,
    response_format={"type": "json_schema", "json_schema": {"name": "river", "schema": form}},
)
print("form:", json.loads(answer.choices[0].message.content))

# What is in `paceline` changes how fast the answer comes, and nothing else.
wishes = [{"speculation": False}, {"drafters": ["suffix"], "budget": 8}, {"store": False, "timeout_s": 30}]
texts = [
    client.chat.completions.create(model=model, messages=question, seed=1, max_tokens=40, extra_body={"paceline": wish})
    .choices[0]
    .message.content
    for wish in wishes
]
print("the same text each time:", len(set(texts)) == 1)
