lock:  ## Write the locked, hashed requirements anew from pyproject.toml and the .in files
	.venv/bin/pip-compile $(LOCK) --output-file requirements/runtime.txt pyproject.toml
	.venv/bin/pip-compile $(LOCK) --output-file requirements/dev.txt requirements/dev.in
	.venv/bin/pip-compile $(LOCK) --output-file requirements/training.txt requirements/training.in
LOCK := --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options --no-header --resolver backtracking
