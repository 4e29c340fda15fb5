# The same over plain HTTP. `-N` shows a stream as it comes; `-f` makes a refusal an error of curl's own.
curl -sSf http://127.0.0.1:8000/health
MODEL=$(curl -sSf http://127.0.0.1:8000/v1/models | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
curl -sSfN http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
  "model": "'"$MODEL"'",
  "messages": [{"role": "user", "content": "Name three rivers."}],
  "seed": 1, "max_tokens": 40, "stream": true, "stream_options": {"include_usage": true}
}'
