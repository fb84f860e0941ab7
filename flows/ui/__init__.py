"""The local web console, on NiceGUI: one page a file, each reading what it shows from the home when it is opened."""
