"""Layers: functions around the handlers of an app, and those that are ready to use."""
