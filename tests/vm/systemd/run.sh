#!/bin/sh
# Started by vm-runner.service: runs the checks, keeps what the machine has to say, and switches it off.
set -u
cd /root || exit 1
uname -r >/out/release.txt
# shellcheck disable=SC2046  # one word per name
python3 -m tests.vm.systemd.main --out /out/results.jsonl $(cat /out/names.txt) >/out/console.log 2>&1 </dev/null
echo $? >/out/status.txt
journalctl --no-pager --output=short-monotonic >/out/journal.txt 2>&1
journalctl --no-pager --output=json >/out/journal.json 2>&1
dmesg >/out/dmesg.txt
sync
umount /out
systemctl poweroff --force --force
