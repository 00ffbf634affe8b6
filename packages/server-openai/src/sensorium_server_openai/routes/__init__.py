"""The routes: one file for each thing that clients ask for."""
