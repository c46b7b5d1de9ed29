"""Image bytes in, uint8 RGB pixels in CLIP geometry out; and what decoding shows about each image."""
