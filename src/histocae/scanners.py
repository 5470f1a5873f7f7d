"""The microns per pixel that scanners produce."""

# Scanners range from 0.1 (100x oil) to 10 microns per pixel (1x). Values beyond are print
# resolutions: 72 dots per inch read as microns per pixel is 352.8.
MPP_RANGE = (0.05, 10.0)
MPP_EXPECTED = f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} microns per pixel (a 40x scan has 0.25)"
