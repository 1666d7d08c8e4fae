# What the packages for all releases of Debian have in common.

PLACE := usr/lib/dmimad
TREE := debian/dmimad/$(PLACE)
# What was installed, where and by what, is told by the package and not by pip's records.
INSTALL_REST = rm -f $(foreach name,RECORD REQUESTED INSTALLER WHEEL,$(TREE)/*.dist-info/$(name)) && \
	install -D -m 755 packaging/dmimad debian/dmimad/usr/bin/dmimad && cp -a payload/. debian/dmimad/

override_dh_installchangelogs:
	dh_installchangelogs --no-trim CHANGELOG.md

# Pages link to each other, and alerts of Prometheus to the handbook: they stay as they are.
override_dh_compress:
	dh_compress -X.md

# Modules are compiled where they are installed: the service cannot write there.
override_dh_python3:
	dh_python3 --no-guessing-deps --no-shebang-rewrite
	dh_python3 --no-guessing-deps /$(PLACE)

# The user must exist before its directories are made: in this order the snippets of postinst stand.
override_dh_installtmpfiles:
	dh_installsysusers
	dh_installtmpfiles

# Not enabled, and what is not enabled is not started when it is installed: there is nothing to watch for before it is
# configured. A running one is restarted after an upgrade. The socket stays as it is: it cannot be opened anew while its
# service runs.
override_dh_installsystemd:
	dh_installsystemd --no-enable dmimad.service dmimad-live.service
	dh_installsystemd --no-enable --no-restart-after-upgrade --no-stop-on-upgrade dmimad-live.socket

override_dh_fixperms:
	dh_fixperms
	chmod 700 debian/dmimad/etc/dmimad/secrets
