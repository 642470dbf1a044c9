"""Runs scripts one after the other in this process, each as its command line would.

Standard input: JSON, a list of argument lists that begin with a script's path. Standard output: JSON,
a list of [exit code, what it printed].
"""

import contextlib
import io
import json
import runpy
import sys
import traceback

done, commands = [], json.load(sys.stdin)
for arguments in commands:
  sys.argv, out = arguments, io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    try:
      runpy.run_path(arguments[0], run_name="__main__")
      code = 0
    except SystemExit as error:
      code = error.code or 0
    except BaseException:
      traceback.print_exc()
      code = 1
  done.append([code, out.getvalue()])
json.dump(done, sys.stdout)
