# shellcheck shell=bash
# Sourced by the launch scripts: their help, their mistakes, and `--dry-run`.

DRY_RUN="${DRY_RUN:-}"

usage() { # print the comment at the head of the script
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

fail() { # fail MESSAGE...: a mistake of the user
  echo "error: $*" >&2
  exit 2
}

need() { # need FLAG VALUE: refuse a flag that was left out
  [ -n "$2" ] || fail "$1 is missing: see $0 --help"
}

need_value() { # need_value FLAG COUNT: refuse a flag at the end of the line
  [ "$2" -ge 2 ] || fail "$1 needs a value: see $0 --help"
}

need_number() { # need_number FLAG VALUE
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1 is '$2', but it must be a whole number from 1 up"
}

quoted() { # quoted WORD...: the words as a shell would read them again, without quotes where none are needed
  local word out=()
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then out+=("$word"); else out+=("'${word//\'/\'\\\'\'}'"); fi
  done
  echo "${out[*]}"
}

run() { # run COMMAND...: print it, and run it unless this is a dry run
  echo "+ $(quoted "$@")" >&2
  [ -n "$DRY_RUN" ] || "$@"
}
