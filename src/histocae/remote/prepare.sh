# Prepares a job on the machine that submits it: checks out the commit and makes the environment of its lock file.
# $1 folder  $2 name of the job  $3 commit sent  $4 commit checked out by the sender  $5 project's folder in the commit
# $6 python  $7 lock file
work=$1/jobs/$2/work
if [ ! -d "$work" ]; then
  # objects are shared with the repository; the job's branch there keeps them from garbage collection
  git clone --quiet --shared --no-checkout "$1/repository.git" "$work"
fi
git -C "$work" checkout --quiet --force --detach "$3"
# the sender's uncommitted changes are uncommitted here too, so that the run's tags say that the commit was changed
[ "$3" = "$4" ] || git -C "$work" reset --quiet --mixed "$4"
cd "$work/$5"
[ -f "$7" ] || { echo "$7: not in the commit that was sent; commit it" >&2; exit 1; }
version=$("$6" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
environment=$1/environments/$(cat "$7" - <<<"$version" | sha256sum | cut -c -16)
if [ ! -e "$environment/.complete" ]; then
  exec 9>"$environment.lock"
  flock 9  # of two jobs that need the same environment only the first makes it
  if [ ! -e "$environment/.complete" ]; then
    echo "making the environment of $7 in $environment, once" >&2
    make --silent environment VENV="$environment" PYTHON="$6" LOCK="$7" >&2 9>&-
  fi
  exec 9>&-
fi
echo "$environment"
