"""The contenders: the brief implemented in other ways, and the upper bounds (ceilings). One file each."""
