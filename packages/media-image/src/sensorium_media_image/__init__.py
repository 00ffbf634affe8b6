"""Images for Sensorium: the image kind, and the model families whose towers see images."""
