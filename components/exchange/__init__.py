"""How weights move: safetensors files whose digests are checked, and the store they lie in."""
