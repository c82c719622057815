#!/bin/sh
# Replaces the containers of services one after the other, so that nobody notices:
# a new one comes first, and when it is healthy an old one is drained and goes.
#
#   docker compose build && deploy/rolling.sh            # a new version of every service
#   deploy/rolling.sh gateway presence                   # these
#
# Compose itself would stop them all and then start the new ones. lb, postgres and
# the NATS nodes are there once each, with a port or a volume of their own: they
# are restarted in place, and what needs them waits for that moment. They are
# not among those that are replaced unless you name them.
#
# Other projects and files by compose's own COMPOSE_PROJECT_NAME, COMPOSE_ENV_FILES
# and so on. FAIRLEAD_ROLLING_WAIT (120) is how many seconds a new one may take.
set -eu
cd "$(dirname "$0")/.."
patience=${FAIRLEAD_ROLLING_WAIT:-120}

say() { printf '%s\n' "$*"; }

health() { docker inspect -f '{{if .State.Running}}{{.State.Health.Status}}{{end}}' "$1" 2>/dev/null || true; }

# healthy CONTAINER: waits until it is.
healthy() {
  until=$(($(date +%s) + patience))
  while [ "$(health "$1")" != healthy ]; do
    [ "$(date +%s)" -lt "$until" ] || return 1
    sleep 0.5
  done
}

# added BEFORE AFTER: what is in the second list of containers only.
added() {
  for c in $2; do
    case " $(echo $1) " in *" $c "*) ;; *) echo "$c" ;; esac
  done
}

# replace SERVICE: each container by a new one.
replace() {
  old=$(docker compose ps -q "$1")
  count=$(set -- $old && echo $#)
  [ "$count" -gt 0 ] || { say "$1: nothing runs"; return 1; }
  for container in $old; do
    before=$(docker compose ps -q "$1")
    docker compose up -d --no-deps --no-build --no-recreate --scale "$1=$((count + 1))" "$1" >/dev/null 2>&1
    new=$(added "$before" "$(docker compose ps -q "$1")")
    if [ -z "$new" ] || ! healthy "$new"; then
      say "$1: the new container is not healthy after ${patience}s, the old ones stay. It said last:"
      [ -z "$new" ] || { docker logs --tail 20 "$new"; docker rm -f "$new" >/dev/null; }
      return 1
    fi
    docker stop "$container" >/dev/null # as long as stop_grace_period says
    docker rm "$container" >/dev/null
  done
  say "$1: $count replaced"
}

# restart SERVICE: in place.
restart() {
  docker compose up -d --no-deps --no-build --force-recreate "$1" >/dev/null 2>&1
  container=$(docker compose ps -q "$1")
  healthy "$container" || { say "$1: not healthy after ${patience}s"; return 1; }
  case $1 in nats*) # a node of a cluster has to catch up before the next one goes
    until=$(($(date +%s) + patience))
    while ! docker exec "$container" wget -q -O /dev/null http://127.0.0.1:8222/healthz; do
      [ "$(date +%s)" -lt "$until" ] || { say "$1: its streams are not current after ${patience}s"; return 1; }
      sleep 0.5
    done
  esac
  say "$1: restarted"
}

[ $# -gt 0 ] || set -- presence replay ratelimit tasks gateway demo
for service in "$@"; do
  case $service in
    nats* | postgres | lb) restart "$service" ;;
    *) replace "$service" ;;
  esac
done
