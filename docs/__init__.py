"""The pages of the project, and what makes their example; no part of the installed packages."""
