# What tests/peers/run and tests/interop/run share: installing, a simulated robot, a table, its end. They set `sources`,
# their own folder, and `work`, where everything goes that is not theirs.
# shellcheck shell=sh
# shellcheck disable=SC2154 # `work` and `program` are theirs

# Nothing is written next to the sources.
export PYTHONDONTWRITEBYTECODE=1
# A proxy is for what is installed.
export no_proxy="${no_proxy:+$no_proxy,}127.0.0.1" NO_PROXY="${NO_PROXY:+$NO_PROXY,}127.0.0.1"
# Something of this shape only: one client checks what a token and a secret look like.
token=simulated0token
simulator=
host=
mkdir -p "$work"
table=$work/table
: >"$table"
: >"$work/skipped"

skipped() {
    echo "!!! SKIPPED: $1" | tee -a "$work/skipped" >&2
}

# Each prints why it could not install something; its programs are then skipped.
python=$work/python/bin/python
install_python() {
    command -v python3 >/dev/null || { echo "there is no python3"; return 1; }
    [ -x "$python" ] || python3 -m venv "$work/python" >&2 || { echo "python3 has no venv"; return 1; }
    for requirements in "$@"; do set -- "$@" --requirement "$requirements"; shift; done
    "$python" -m pip install --quiet --disable-pip-version-check "$@" >&2 ||
        { echo "pip could not install the programs"; return 1; }
}
# The argument is a package.json.
install_node() {
    command -v node >/dev/null || { echo "there is no node"; return 1; }
    command -v npm >/dev/null || { echo "there is no npm"; return 1; }
    mkdir -p "$work/node" || return 1
    cp "$1" "$work/node/"
    npm install --prefix "$work/node" --no-audit --no-fund --ignore-scripts --loglevel error >&2 ||
        { echo "npm could not install the programs"; return 1; }
}

finish() {
    [ -z "$1" ] || { kill "$1" 2>/dev/null; wait "$1" 2>/dev/null; }
}
stop() {
    finish "$host"
    finish "$simulator"
    host='' simulator=
}
trap stop EXIT
trap 'exit 130' INT TERM

# Waits until $1, whose output is $2, has said $3, an expression for sed, and prints what that leaves. Its log is $4.
said() {
    waited=0
    until found=$(sed -n "$3" "$2") && [ -n "$found" ]; do
        if ! kill -0 "$1" 2>/dev/null || [ "$waited" -ge 600 ]; then
            echo "it does not start:" >&2
            cat "$4" >&2
            exit 1
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
    echo "$found"
}

# Starts a robot with this secret, or without one, and further flags, and waits until it says where it is.
start() {
    ROBOT_TOKEN=$token ROBOT_SECRET=$1 HOST=$program
    shift
    [ -z "$ROBOT_SECRET" ] || set -- --secret "$ROBOT_SECRET" "$@"
    # The one before would be left running: only the last one is known at the end.
    finish "$simulator" || true
    # The one before is not to be read, should it be looked at first.
    : >"$work/group"
    "$program" simulate --port 0 --rate-limit 0 --access-token "$token" "$@" >"$work/group" 2>"$work/log" &
    simulator=$!
    ROBOT_BASE=$(said $simulator "$work/group" 's,^simulated DingTalk robot: \(http://[^/]*\)/.*,\1,p' "$work/log") || exit 1
    export ROBOT_BASE ROBOT_TOKEN ROBOT_SECRET HOST
}

# A program's lines are part of the table. One that breaks off is a failure too, with a line of its own. It has `seconds`,
# where that is set.
run() {
    name=$1
    shift
    timeout "${seconds:-300}" "$@" >"$work/lines" 2>"$work/errors" && ended=0 || ended=$?
    if [ "$ended" -ne 0 ]; then
        cat "$work/errors" >&2
        printf 'FAILED\t%s\tends\tstatus %s\n' "$name" "$ended" >>"$work/lines"
    fi
    sed -n 's/^!!! SKIPPED: //p' "$work/errors" >"$work/left_out"
    while read -r what; do skipped "$what"; done <"$work/left_out"
    show
}
show() {
    column -t -s "$(printf '\t')" "$work/lines" 2>/dev/null || cat "$work/lines"
    cat "$work/lines" >>"$table"
}

# The end of the table, and whether all of it is as expected. The argument says what can be skipped.
summary() {
    echo "---"
    cat "$work/skipped" >&2
    passed=$(grep -c '^ok' "$table")
    failed=$(grep -vc '^ok' "$table")
    echo "$passed as expected, $failed not, $(grep -c . "$work/skipped") $1 skipped"
    # With everything skipped nothing was shown.
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
