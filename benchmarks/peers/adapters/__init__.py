"""One file a library: functions `Setting -> meta-gradients (B, P)`, written as that library's own examples do it."""
