"""What `aixgo init` writes: the files of a new project, and the rules of writing them."""
