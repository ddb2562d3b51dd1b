"""`python -m msl_hf`, for `accelerate launch -m msl_hf train ...`."""

from .cli import main

if __name__ == "__main__":
    main()
