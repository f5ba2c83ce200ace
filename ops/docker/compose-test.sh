#!/usr/bin/env bash
# Builds and starts the stack, streams one answer through it, and takes it down again.
# COMPOSE names the command; it must understand `up`, `logs`, `exec` and `down`.
set -euo pipefail
cd "$(dirname "$0")/../.."
beside=../shared/tools/compose-local
COMPOSE=${COMPOSE:-$([ -x "$beside" ] && echo "$beside" || echo "docker compose")}
export COMPOSE_PROJECT_NAME=penstock-test
export PENSTOCK_PORT=${PENSTOCK_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
url=http://127.0.0.1:$PENSTOCK_PORT

down() {
  status=$?
  [ $status = 0 ] || $COMPOSE logs --tail 50 || true
  $COMPOSE down -v >/dev/null 2>&1 || true
  exit $status
}
trap down EXIT

case $COMPOSE in
  *compose-local) $COMPOSE up ;;
  *) $COMPOSE up -d --build ;;
esac

curl --silent --show-error --fail --retry 120 --retry-delay 1 --retry-all-errors "$url/ready" >/dev/null
key=$($COMPOSE logs api 2>/dev/null | sed -n 's/.*penstock key: \(ps_[A-Za-z0-9_]*\).*/\1/p' | head -n 1)
[ -n "$key" ] || { echo "compose-test: no key in the log" >&2; exit 1; }

refused=$(curl --silent --output /dev/null --write-out '%{http_code}' "$url/v1/models")
[ "$refused" = 401 ] || { echo "compose-test: without a key: $refused" >&2; exit 1; }

answer=$(curl --silent --show-error --fail --no-buffer --max-time 60 "$url/v1/chat/completions" \
  -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
  -d '{"messages": [{"role": "user", "content": "Who are you?"}], "stream": true, "temperature": 0}')
echo "$answer" | sed -n 's/.*"content": *"\(\([^"\\]\|\\.\)*\)".*/\1/p' | tr -d '\n'
echo
[[ $answer == *'data: [DONE]'* ]] || { echo "compose-test: the stream did not end" >&2; exit 1; }

if $COMPOSE exec -T worker python3 -c 'import socket; socket.create_connection(("1.1.1.1", 443), 3)' 2>/dev/null; then
  echo "compose-test: the worker reaches the internet" >&2
  exit 1
fi
echo "compose-test: passed"
