"""Weight formats (`formats`), and packing whole model folders into them (`quantize`)."""
