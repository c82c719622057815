#!/bin/sh
# Replaces the containers of services one after the other, so that nobody notices:
# a new one comes first, and when it is healthy an old one is drained and goes.
#
#   docker compose build && deploy/rolling.sh            # a new version of every service
#   deploy/rolling.sh gateway presence                   # these
#
# Compose itself would stop them all and then start the new ones. lb, postgres, the
# NATS nodes and the profile obs are there once each, with a port or a volume of
# their own: they are restarted in place, and what needs them waits for that moment.
# They are not among those that are replaced unless you name them. Without names,
# services that do not run are left alone.
#
# Other projects and files by compose's own COMPOSE_PROJECT_NAME, COMPOSE_ENV_FILES
# and so on. FAIRLEAD_ROLLING_WAIT (120) is how many seconds a new one may take.
set -eu
cd "$(dirname "$0")/.."
patience=${FAIRLEAD_ROLLING_WAIT:-120}

say() { printf '%s\n' "$*"; }

# What is under way, for whoever stops this script.
growing= before= going=

# tidy leaves as many containers as there were: one that has come and is not known to
# be healthy goes, and so does one that has been replaced already.
tidy() {
  trap '' INT TERM HUP
  set +e
  if [ -n "$growing" ]; then
    for c in $(added "$before" "$(docker compose ps -aq "$growing")"); do docker rm -f "$c" >/dev/null; done
  elif [ -n "$going" ]; then
    say "an old one is on its way: it ends in a moment"
    docker stop "$going" >/dev/null
    docker rm "$going" >/dev/null
  fi
  rmdir "$lock"
}

health() {
  docker inspect -f '{{if .State.Running}}{{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}{{end}}' "$1" 2>/dev/null || true
}

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

# up ARGUMENTS: silent, unless compose can't.
up() {
  said=$(docker compose up -d --no-deps --no-build "$@" 2>&1) || { say "$said"; return 1; }
}

# replace SERVICE: each container by a new one.
replace() {
  # Compose counts those that have ended too, and would start one of them in place of a new one.
  said=$(docker compose rm -f "$1" 2>&1) || { say "$said"; return 1; }
  old=$(docker compose ps -q "$1")
  count=$(set -- $old && echo $#)
  if [ "$count" -eq 0 ]; then
    [ -z "$all" ] || return 0
    say "$1: nothing runs in the project $project"
    return 1
  fi
  for container in $old; do
    before=$(docker compose ps -aq "$1")
    growing=$1
    if ! up --no-recreate --scale "$1=$((count + 1))" "$1"; then
      say "$1: compose could not start a new container, the old ones stay"
      return 1
    fi
    new=$(added "$before" "$(docker compose ps -aq "$1")")
    if [ -z "$new" ] || ! healthy "$new"; then
      say "$1: the new container is not healthy after ${patience}s, the old ones stay. It said last:"
      [ -z "$new" ] || docker logs --tail 20 "$new" 2>&1
      return 1
    fi
    growing= going=$container
    docker stop "$container" >/dev/null # as long as stop_grace_period says
    docker rm "$container" >/dev/null
    going=
  done
  some=yes
  say "$1: $count replaced"
}

# restart SERVICE: in place.
restart() {
  up --force-recreate "$1" || { say "$1: compose could not start it"; return 1; }
  container=$(docker compose ps -q "$1")
  if [ -z "$container" ] || ! healthy "$container"; then
    say "$1: not healthy after ${patience}s. It said last:"
    docker compose logs --no-log-prefix --tail 20 "$1" 2>&1
    return 1
  fi
  case $1 in nats*) # a node of a cluster has to catch up before the next one goes
    until=$(($(date +%s) + patience))
    while ! docker exec "$container" wget -q -O /dev/null http://127.0.0.1:8222/healthz; do
      [ "$(date +%s)" -lt "$until" ] || { say "$1: its streams are not current after ${patience}s"; return 1; }
      sleep 0.5
    done
  esac
  some=yes
  say "$1: restarted"
}

project=$(docker compose config | sed -n 's/^name: *//p') # a file that compose can't read ends here, by compose's own words
[ -n "$project" ] || exit 1
# Without its settings a node of a cluster would come back as a node alone.
if [ -n "$(docker ps -q --filter "label=com.docker.compose.project=$project" --filter label=com.docker.compose.service=nats-2)" ] &&
  ! docker compose config --services | grep -qx nats-2; then
  say "three NATS nodes run in the project $project, and these settings have one: set COMPOSE_ENV_FILES"
  exit 1
fi
# Two at once would take the other's new container for their own.
lock=${TMPDIR:-/tmp}/fairlead-rolling-$project
mkdir "$lock" || { say "is another one under way? If not: rmdir $lock"; exit 1; }
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

all= some=
[ $# -gt 0 ] || { all=yes; set -- presence replay ratelimit tasks gateway demo; }
for service in "$@"; do
  case $service in
    nats* | postgres | lb | prometheus | grafana | otel-collector) restart "$service" ;;
    *) replace "$service" ;;
  esac
done
[ -n "$some" ] || { say "nothing runs in the project $project: is another one meant, by COMPOSE_ENV_FILES or COMPOSE_PROJECT_NAME?"; exit 1; }
