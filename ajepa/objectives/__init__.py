"""The pre-training systems, one file each, behind one interface (`base.Objective`)."""
