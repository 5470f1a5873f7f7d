# Makes a job ready, on the machine that it is sent from: the commit's files, and the environment of its lock.
# $1 folder  $2 name of the job  $3 commit sent  $4 commit it stands on  $5 project's folder in it  $6 python  $7 lock
work=$1/jobs/$2/work
if [ ! -d "$work" ]; then
  # objects are shared with the repository beside it, which keeps them: the job's branch stays there
  git clone --quiet --shared --no-checkout "$1/repository.git" "$work"
fi
git -C "$work" checkout --quiet --force --detach "$3"
# what was uncommitted is so there as well: the run's tags say which commit it stands on, and that it was changed
[ "$3" = "$4" ] || git -C "$work" reset --quiet --mixed "$4"
cd "$work/$5"
[ -f "$7" ] || { echo "$7: not in the commit that was sent" >&2; exit 1; }
version=$("$6" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
environment=$1/environments/$(cat "$7" - <<<"$version" | sha256sum | cut -c -16)
if [ ! -e "$environment/.complete" ]; then
  exec 9>"$environment.lock"
  flock 9  # of two jobs that need it one makes it
  if [ ! -e "$environment/.complete" ]; then
    echo "making the environment of $7 in $environment, once" >&2
    make --silent environment VENV="$environment" PYTHON="$6" LOCK="$7" >&2 9>&-
  fi
  exec 9>&-
fi
echo "$environment"
