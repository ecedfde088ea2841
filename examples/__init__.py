"""Programs that use Holdfast the way a user would."""
