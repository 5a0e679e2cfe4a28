"""What people, the MTA and sshd start: argv, environment and configuration."""
