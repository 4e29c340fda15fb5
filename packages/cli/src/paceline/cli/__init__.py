"""One command for people: starts Paceline, talks to it, shows how it stands, and says what is wrong with a machine."""
