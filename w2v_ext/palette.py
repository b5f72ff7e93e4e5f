"""The colours of pictures and pages."""

PALETTE = ("#4363d8", "#e6550d", "#238b45", "#d6219c", "#8c6d31", "#17a2b8", "#7b3fbf", "#c0392b", "#6b8e23", "#546e7a")
"""Ten colours that can be told apart on white, also in print."""
GREY, INK, SOFT = "#b5bcc6", "#20262e", "#7a8490"
