set -eu
digest=sha256:$(sha256sum "$FILE" | cut -d ' ' -f 1)
ask() { curl -sS --fail-with-body -H "Authorization: Bearer $TOKEN" "$@"; }

# The artifact, in one request. The same one again costs nothing.
ask -T "$FILE" "$EWS/v1/artifacts?digest=$digest" >/dev/null

# The deployment. With the key, a job that is run again gets the same rollout.
rollout=$(ask -X POST -H "Idempotency-Key: $digest" -H 'Content-Type: application/json' \
    -d "{\"upload\": {\"digest\": \"$digest\", \"kind\": \"process\"}, \"spec\": $SPEC}" \
    "$EWS/v1/services/$SERVICE/deploy" | sed 's/.*"rollout":\([0-9]*\).*/\1/')

# Its end, waited for a minute at a time: 202 while it goes on.
while [ "$(ask -o rollout.json -w '%{http_code}' "$EWS/v1/services/$SERVICE/rollouts/$rollout?wait=60s")" = 202 ]; do :; done
grep -q '"outcome":"succeeded"' rollout.json
