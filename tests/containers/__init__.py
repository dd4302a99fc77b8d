"""The image and the Compose fleet, as users run them: needs a Docker engine and Compose."""
