"""Video for Sensorium: the video kind, its readers, and how model families take it."""
