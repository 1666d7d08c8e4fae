"""The commands of ``dmimad``, one module each; `dmimad.cli` finds them."""
