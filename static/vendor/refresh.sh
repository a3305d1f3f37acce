#!/bin/sh
# Fetches what is vendored anew; VENDORED.md says how to change a version. Needs npm, and a Python
# with brotli in $PYTHON.
set -eu
STATIC=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
export STATIC
icons="activity adjustments alert-circle alert-triangle apps arrow-back-up arrow-left arrow-right
 arrow-up-right arrows-sort bookmark bookmarks brain calendar calendar-off check checks chevron-down
 chevron-left chevron-right chevron-up chevrons-left chevrons-right circle-check clock code copy cpu
 database device-desktop download eye file-text filter-off filter-plus folders heartbeat history
 hourglass inbox info-circle key keyboard layout-dashboard link list-check list-search lock logout menu-2
 message moon palette pencil player-stop plug-connected plus refresh robot route search selector
 server settings stack-2 sun tag target terminal-2 trash user user-check user-x users wifi-off x"
cd "$(mktemp -d)"
npm pack --silent @tabler/core@1.6.1 @tabler/icons-sprite@3.48.0 @fontsource-variable/inter@5.3.0
for package in *.tgz; do mkdir "${package%.tgz}" && tar xzf "$package" -C "${package%.tgz}"; done
grep -v '^/\*# sourceMappingURL' tabler-core-*/package/dist/css/tabler.min.css \
  > "$STATIC/vendor/tabler.min.css"
cp fontsource-*/package/files/inter-latin-wght-normal.woff2 \
  fontsource-*/package/files/inter-latin-ext-wght-normal.woff2 "$STATIC/vendor/"
cp fontsource-*/package/LICENSE "$STATIC/vendor/inter-LICENSE.txt"
SPRITE=$(echo tabler-icons-sprite-*/package/dist/tabler-sprite.svg) ICONS=$icons python3 - <<'PYTHON'
import os, pathlib, re
sprite = pathlib.Path(os.environ["SPRITE"]).read_text()
symbols = dict(re.findall(r'(?s)<symbol id="tabler-([^"]+)"(.*?</symbol>)', sprite))
made = ['<svg xmlns="http://www.w3.org/2000/svg">', '<!-- Tabler Icons 3.48.0, (c) 2020-2026 Pawel Kuna, MIT; see vendor/VENDORED.md -->']
# The stroke's width is css/base.css's.
made += [f'<symbol id="{n}"' + symbols[n].replace(' stroke-width="2"', "") for n in os.environ["ICONS"].split()]
(pathlib.Path(os.environ["STATIC"]) / "icons.svg").write_text("\n".join([*made, "</svg>"]) + "\n")
PYTHON
# Served to browsers that take them: no file is compressed while somebody waits.
gzip -9 -k -n -f "$STATIC/vendor/tabler.min.css"
"$PYTHON" -c 'import brotli, sys; sys.stdout.buffer.write(brotli.compress(sys.stdin.buffer.read(), quality=11))' \
  < "$STATIC/vendor/tabler.min.css" > "$STATIC/vendor/tabler.min.css.br"
